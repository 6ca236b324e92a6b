// Texts in GraphQL and JSON: their colours, their operations, and what can stand at a place.

const TOKEN =
  /("""[\s\S]*?(?:"""|$)|"(?:\\.|[^"\\\n])*"?)|(#[^\n]*)|(\$?[_A-Za-z]\w*|@\w+)|(-?\d[\d.eE+-]*)|(\.\.\.|[^\s\w])/g;
const WORDS = new Set(['query', 'mutation', 'subscription', 'fragment', 'on', 'true', 'false', 'null']);
const MOST = 300_000;

/** The tokens of a text: what each is and where it stands. */
export function* tokens(text) {
  for (const match of text.matchAll(TOKEN)) {
    const [all, quoted, note, name, number] = match;
    const kind = quoted
      ? 'text'
      : note
        ? 'note'
        : name
          ? WORDS.has(all)
            ? 'word'
            : 'name'
          : number
            ? 'value'
            : 'sign';
    yield { kind, text: all, from: match.index, to: match.index + all.length };
  }
}

/** Shows a text in colours. Keys of JSON have the colour of names. */
export function colour(element, text, isJson = false) {
  const parts = [];
  let at = 0;
  if (text.length < MOST) {
    for (const { kind, text: piece, from, to } of tokens(text)) {
      if (kind === 'sign') continue;
      if (from > at) parts.push(text.slice(at, from));
      const span = document.createElement('span');
      const isKey = isJson && kind === 'text' && /^\s*:/.test(text.slice(to, to + 4));
      span.className = isKey || (kind === 'name' && /^[$@]/.test(piece)) ? 'name' : kind === 'name' ? '' : kind;
      span.textContent = piece;
      parts.push(span);
      at = to;
    }
  }
  // The last line has its height also when it is empty.
  element.replaceChildren(...parts, `${text.slice(at)}\n`);
}

/** The operations of a document: kind, name, and from where to where they go. */
export function operations(text) {
  const found = [];
  let depth = 0;
  let open = null;
  let before = [];
  for (const token of tokens(text)) {
    if (token.kind === 'note') continue;
    if ('{(['.includes(token.text) && token.kind === 'sign') {
      if (depth === 0 && token.text === '{') {
        const at = before.findIndex(({ text: word }) =>
          ['query', 'mutation', 'subscription', 'fragment'].includes(word),
        );
        const [kind, name] = at < 0 ? [{ text: 'query', from: token.from }] : before.slice(at);
        open = { kind: kind.text, name: name?.kind === 'name' ? name.text : null, from: kind.from };
      }
      depth += 1;
    } else if ('})]'.includes(token.text) && token.kind === 'sign') {
      depth -= 1;
      if (depth === 0 && token.text === '}' && open) {
        found.push({ ...open, to: token.to });
        open = null;
        before = [];
      }
    } else if (depth === 0) before.push(token);
  }
  return found.filter(({ kind }) => kind !== 'fragment');
}

/** What can stand at a place of a document: the word that is begun, and the names that fit. */
export function completions(text, at, schema) {
  const [begun] = text.slice(0, at).match(/[_A-Za-z]\w*$/) ?? [''];
  const fits = (all) => all.filter(({ name }) => name.toLowerCase().startsWith(begun.toLowerCase())).slice(0, 50);
  const stack = []; // of the types around; in brackets the field whose arguments they are
  let type = null; // that the next brace opens
  let field = null;
  let before = []; // words since the last brace
  let object = 0;
  for (const token of tokens(text.slice(0, at - begun.length))) {
    const top = stack.at(-1);
    if (token.kind === 'note') continue;
    if (token.text === '(') stack.push({ field: stack.length ? field : null, brackets: true });
    else if (token.text === ')') {
      while (stack.length && !stack.pop().brackets);
    } else if (token.text === '{' && top?.brackets) object += 1;
    else if (token.text === '}' && object) object -= 1;
    else if (token.text === '{') {
      const root = before.find((word) => ['query', 'mutation', 'subscription'].includes(word)) ?? 'query';
      stack.push({ type: type ?? (stack.length ? null : schema.roots[root]) });
      [type, field, before] = [null, null, []];
    } else if (token.text === '}') {
      stack.pop();
      [type, field, before] = [null, null, []];
    } else if (token.kind === 'name' || token.kind === 'word') {
      if (before.at(-1) === 'on') type = schema.types.get(token.text);
      else if (top && !top.brackets && !token.text.startsWith('@')) {
        field = top.type?.fields?.find(({ name }) => name === token.text) ?? null;
        type = field && schema.named(field.type);
      }
      before.push(token.text);
    } else if (token.text === '...') before = ['...'];
  }
  const top = stack.at(-1);
  if (before.at(-1) === 'on') {
    return {
      begun,
      names: fits(
        [...schema.types.values()].filter(
          ({ kind }) => /OBJECT|INTERFACE|UNION/.test(kind) && !kind.startsWith('INPUT'),
        ),
      ),
    };
  }
  if (!top) return { begun, names: fits(['query', 'mutation', 'subscription', 'fragment'].map((name) => ({ name }))) };
  if (top.brackets) return { begun, names: object ? [] : fits(top.field?.args ?? []) };
  return { begun, names: fits([...(top.type?.fields ?? []), ...(top.type ? [{ name: '__typename' }] : [])]) };
}
