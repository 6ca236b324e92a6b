// The page: what is typed is asked, and what is answered is shown.

import { Session, TOKEN_ENDED, follow } from './client.js';
import { Docs, load } from './schema.js';
import { colour, completions, operations } from './text.js';

const $ = (id) => document.getElementById(id);
const [query, result, names] = [$('query'), $('result'), $('names')];
const KEPT = { query: 'oriel.query', variables: 'oriel.variables', history: 'oriel.history', theme: 'oriel.theme' };
const MOST_MESSAGES = 200;
const MOST_HISTORY = 30;
const WELCOME = `# Ctrl-Enter runs the operation in which the caret stands.
# Schema, above, shows what can be asked; Ctrl-Space completes what you begin.

query Me {
  viewer {
    user { name email }
    organization { name }
    permissions
  }
}

# Any query can be live: its answer comes again whenever it changes.
subscription Projects {
  live {
    projects(first: 10) {
      totalCount
      nodes { id key name documentCount }
    }
  }
}
`;

const session = new Session();
const docs = new Docs({ page: $('page'), trail: $('trail'), find: $('find') });
let schema = null;
/** Ends what runs. */
let stop = null;
/** The messages of a subscription, which one is shown, and whether the next ones only wait. */
let messages = { all: [], count: 0, shown: -1, paused: false };

// What a browser keeps is a convenience: it may be forbidden, and nothing secret goes there.
const kept = (key) => {
  try {
    return localStorage.getItem(KEPT[key]);
  } catch {
    return null;
  }
};
const keep = (key, value) => {
  try {
    localStorage.setItem(KEPT[key], value);
  } catch {
    // Then it is forgotten.
  }
};
const isSecret = (text) => /password|token|secret/i.test(text);

// --- what is shown --------------------------------------------------------------------------------------------------

function say(text, isFailure = false) {
  $('status').textContent = text;
  $('status').classList.toggle('failed', isFailure);
}

const show = (answer) => colour(result, typeof answer === 'string' ? answer : JSON.stringify(answer, null, 2), true);

function told({ extensions, errors }) {
  const { cost, position } = extensions ?? {};
  const wrong = errors?.length ? `${errors.length} ${errors.length > 1 ? 'errors' : 'error'}` : null;
  return [wrong, cost && `cost ${cost.requested} of ${cost.limit}`, position && `position ${position}`].filter(Boolean);
}

function running(end) {
  stop = end;
  $('stop').hidden = !end;
  $('run').disabled = Boolean(end);
}

function showMessage(at, note = '') {
  const first = messages.count - messages.all.length;
  const answer = messages.all[at];
  messages.shown = at;
  show(answer);
  $('which').textContent = `message ${first + at + 1} of ${messages.count}`;
  $('earlier').disabled = at === 0;
  $('later').disabled = at === messages.all.length - 1;
  if (stop)
    say(
      [messages.paused ? 'Paused' : 'Live', ...told(answer), note].filter(Boolean).join(' · '),
      Boolean(answer.errors),
    );
}

function pause(paused) {
  messages.paused = paused;
  $('pause').setAttribute('aria-pressed', paused);
  $('pause').textContent = paused ? 'Go on' : 'Pause';
  if (!messages.all.length) return;
  showMessage(paused ? messages.shown : messages.all.length - 1);
}

// --- asking ---------------------------------------------------------------------------------------------------------

/** A JSON object that is typed beside the document. */
function object(id) {
  const text = $(id).value.trim();
  if (!text) return {};
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new Error(`The ${id} are not JSON: ${error.message}`);
  }
  if (value === null || typeof value !== 'object' || Array.isArray(value))
    throw new Error(`The ${id} are not a JSON object.`);
  return value;
}

/** The variables without their files, and the files with their places: `"@1"` stands for the first that is chosen. */
function placed(variables, files) {
  const found = files.map((file) => ({ file, paths: [] }));
  const taken = (value, path) => {
    if (typeof value === 'string' && /^@\d+$/.test(value)) {
      const one = found[Number(value.slice(1)) - 1];
      if (!one) throw new Error(`The variables have ${value}, and ${files.length} files are chosen.`);
      one.paths.push(path);
      return null;
    }
    if (value === null || typeof value !== 'object') return value;
    const inside = Object.entries(value).map(([key, one]) => [key, taken(one, `${path}.${key}`)]);
    return Array.isArray(value) ? inside.map(([, one]) => one) : Object.fromEntries(inside);
  };
  const rest = taken(variables, 'variables');
  const idle = found.findIndex(({ paths }) => !paths.length);
  if (idle >= 0) throw new Error(`Say where ${files[idle].name} belongs: write "@${idle + 1}" into the variables.`);
  return { variables: rest, files: found };
}

/** The operation that is chosen, else the one at the caret, else the first. */
function chosen() {
  const all = operations(query.value);
  const named = $('operation').value;
  const at = query.selectionStart;
  const operation =
    all.find(({ name }) => named && name === named) ?? all.find(({ from, to }) => from <= at && at <= to) ?? all[0];
  return operation && { ...operation, isOnly: all.length === 1 };
}

async function run() {
  if (stop) stop();
  try {
    const operation = chosen();
    const chosenFiles = [...$('files').files];
    const { variables, files } = chosenFiles.length
      ? placed(object('variables'), chosenFiles)
      : { variables: object('variables'), files: [] };
    const request = { query: query.value, variables };
    if (operation?.name && !operation.isOnly) request.operationName = operation.name;
    const headers = object('headers');
    remember(query.value);
    $('messages').hidden = true;
    $('pause').hidden = true;
    if (operation?.kind === 'subscription') await subscribe(request);
    else await ask(request, headers, files);
  } catch (error) {
    say(error.message, true);
  }
}

async function ask(request, headers, files) {
  const abort = new AbortController();
  running(() => abort.abort());
  say('Asking …');
  try {
    const { status, ms, size, text, json } = await session.ask(request, headers, abort.signal, files);
    show(json ?? text);
    const facts = [`${status}`, `${Math.round(ms)} ms`, `${size.toLocaleString('en')} bytes`, ...told(json ?? {})];
    say(facts.join(' · '), status >= 400 || Boolean(json?.errors));
  } catch (error) {
    say(abort.signal.aborted ? 'Stopped.' : `No answer: ${error.message}`, true);
  } finally {
    running(null);
    showWho();
  }
}

async function subscribe(request) {
  messages = { all: [], count: 0, shown: -1, paused: false };
  pause(false);
  result.replaceChildren();
  say('Connecting …');
  const next = (answer) => {
    messages.all.push(answer);
    messages.count += 1;
    if (messages.all.length > MOST_MESSAGES) {
      messages.all.shift();
      messages.shown = Math.max(0, messages.shown - 1);
    }
    $('messages').hidden = false;
    showMessage(messages.paused && messages.shown >= 0 ? messages.shown : messages.all.length - 1);
  };
  const over = (why, isFailure) => {
    running(null);
    $('pause').hidden = true;
    say(`${messages.count} ${messages.count === 1 ? 'message' : 'messages'} · ${why}`, isFailure);
  };
  const begin = async () => {
    const before = messages.count;
    const ended = (why, isFailure, code) => {
      // With a new token a live query says what it would have said; one that said nothing yet was refused.
      const goesOn = code === TOKEN_ENDED && session.isSignedIn && messages.count > before && isLive(request.query);
      if (goesOn) begin().catch((error) => over(error.message, true));
      else over(why, isFailure);
    };
    running(follow(request, await session.token(), { next, ended }));
  };
  await begin();
  $('pause').hidden = false;
}

const isLive = (text) => /\blive\s*\{/.test(text);

// --- history --------------------------------------------------------------------------------------------------------

function history() {
  try {
    const all = JSON.parse(kept('history') ?? '[]');
    return Array.isArray(all) ? all.filter((text) => typeof text === 'string') : [];
  } catch {
    return [];
  }
}

function remember(text) {
  if (!text.trim() || isSecret(text)) return;
  keep('history', JSON.stringify([text, ...history().filter((other) => other !== text)].slice(0, MOST_HISTORY)));
  showHistory();
}

function showHistory() {
  const titles = history().map((text, n) => {
    const all = operations(text).map(({ kind, name }) => name ?? kind);
    return new Option(all.join(', ') || text.trim().slice(0, 40), String(n));
  });
  const forget = titles.length ? [new Option('Forget all of it', 'forget')] : [];
  $('history').replaceChildren(new Option('History', ''), ...titles, ...forget);
}

// --- the editor -----------------------------------------------------------------------------------------------------

function typed() {
  colour($('colours'), query.value);
  const all = operations(query.value).filter(({ name }) => name);
  const before = $('operation').value;
  $('operation').replaceChildren(new Option('at the caret', ''), ...all.map(({ name }) => new Option(name, name)));
  $('operation').value = all.some(({ name }) => name === before) ? before : '';
  $('operations').hidden = all.length < 2;
  if (!isSecret(query.value)) keep('query', query.value);
}

function insert(text, from = query.selectionStart, to = query.selectionEnd) {
  query.setRangeText(text, from, to, 'end');
  query.dispatchEvent(new Event('input'));
}

/** Offers what can stand at the caret; takes the only one when it was asked for. */
function offer(isAsked) {
  const at = query.selectionStart;
  const { begun, names: all } = schema?.types ? completions(query.value, at, schema) : { begun: '', names: [] };
  if (!all.length || (!isAsked && (!begun || all.some(({ name }) => name === begun)))) return (names.hidden = true);
  const options = all.map(({ name, type, description }, n) => {
    const option = document.createElement('li');
    Object.assign(option, { role: 'option', id: `name-${n}`, title: description ?? '', textContent: name });
    option.dataset.name = name;
    option.setAttribute('aria-selected', n === 0);
    if (type)
      option.append(Object.assign(document.createElement('span'), { textContent: schema.named(type)?.name ?? '' }));
    option.addEventListener('mousedown', (event) => {
      event.preventDefault();
      take(name);
    });
    return option;
  });
  names.replaceChildren(...options);
  const lines = query.value.slice(0, at).split('\n');
  names.style.top = `${Math.max(0, lines.length * 20.25 + 14 - query.scrollTop)}px`;
  const left = Math.min(lines.at(-1).length * 8.1 - query.scrollLeft, query.clientWidth - 260);
  names.style.left = `${Math.max(0, left)}px`;
  names.hidden = false;
  query.setAttribute('aria-activedescendant', 'name-0');
}

function take(name) {
  const at = query.selectionStart;
  const [begun] = query.value.slice(0, at).match(/\w*$/);
  insert(name, at - begun.length, at);
  close();
}

function close() {
  names.hidden = true;
  query.removeAttribute('aria-activedescendant');
}

function move(step) {
  const all = [...names.children];
  const now = all.findIndex((option) => option.getAttribute('aria-selected') === 'true');
  const next = all[(now + step + all.length) % all.length];
  all[now].setAttribute('aria-selected', false);
  next.setAttribute('aria-selected', true);
  next.scrollIntoView({ block: 'nearest' });
  query.setAttribute('aria-activedescendant', next.id);
}

function comment() {
  const { value, selectionStart: from, selectionEnd: to } = query;
  const begin = value.lastIndexOf('\n', from - 1) + 1;
  const end = value.indexOf('\n', to) < 0 ? value.length : value.indexOf('\n', to);
  const lines = value.slice(begin, end).split('\n');
  const isNote = lines.every((line) => /^\s*#/.test(line));
  insert(lines.map((line) => (isNote ? line.replace(/^(\s*)# ?/, '$1') : `# ${line}`)).join('\n'), begin, end);
}

query.addEventListener('keydown', (event) => {
  const { key, ctrlKey, metaKey } = event;
  const isOffered = !names.hidden;
  const act = (work) => {
    event.preventDefault();
    work();
  };
  if (isOffered && (key === 'ArrowDown' || key === 'ArrowUp')) act(() => move(key === 'ArrowDown' ? 1 : -1));
  else if (isOffered && (key === 'Enter' || key === 'Tab') && !ctrlKey && !metaKey) {
    act(() => take(names.querySelector('[aria-selected=true]').dataset.name));
  } else if (isOffered && key === 'Escape') {
    event.stopPropagation();
    act(close);
  } else if (key === ' ' && ctrlKey) act(() => offer(true));
  else if (key === '/' && (ctrlKey || metaKey)) act(comment);
  else if (key === 'Enter' && !ctrlKey && !metaKey) {
    const before = query.value.slice(0, query.selectionStart);
    const [indent] = before.slice(before.lastIndexOf('\n') + 1).match(/^ */);
    const opens = /[{([]\s*$/.test(before);
    const closes = opens && /^[})\]]/.test(query.value.slice(query.selectionEnd));
    act(() => {
      insert(`\n${indent}${opens ? '  ' : ''}`);
      if (closes) {
        const at = query.selectionStart;
        insert(`\n${indent}`);
        query.setSelectionRange(at, at);
      }
    });
  } else if ('{('.includes(key) && key.length === 1 && query.selectionStart === query.selectionEnd) {
    act(() => {
      insert(key === '{' ? '{}' : '()');
      query.setSelectionRange(query.selectionStart - 1, query.selectionStart - 1);
    });
  }
});
query.addEventListener('input', (event) => {
  typed();
  if (event.isTrusted) offer(false);
});
query.addEventListener('blur', close);
query.addEventListener('scroll', () => $('colours').scrollTo(query.scrollLeft, query.scrollTop));

// --- signing in -----------------------------------------------------------------------------------------------------

function showWho() {
  $('sign').textContent = session.isSignedIn ? 'Sign out' : 'Sign in';
  if (!session.isSignedIn) $('who').textContent = '';
}

/** A code is asked for when the password was right and is not enough. */
function showCode() {
  const { code } = $('login').elements;
  code.closest('label').hidden = !session.wantsCode;
  code.required = session.wantsCode;
  if (session.wantsCode) code.focus();
  else code.value = '';
}

async function entered() {
  try {
    $('who').textContent = await session.whoami();
    $('door').close();
    schema = docs.schema = await load(session);
  } catch (error) {
    session.signOut();
    $('door').querySelector('.wrong').textContent = error.message;
  }
  showWho();
}

for (const [id, enter] of [
  ['login', ({ email, password, code }) => session.signIn(email.value, password.value, code.value)],
  ['paste', ({ token }) => session.useToken(token.value)],
]) {
  $(id).addEventListener('submit', async (event) => {
    event.preventDefault();
    $('door').querySelector('.wrong').textContent = '';
    try {
      await enter(event.target.elements);
      await entered();
      event.target.reset();
    } catch (error) {
      $('door').querySelector('.wrong').textContent = error.message;
    }
    showCode();
  });
}
for (const field of ['email', 'password'])
  $('login').elements[field].addEventListener('input', () => {
    session.forgetChallenge();
    showCode();
  });
$('door')
  .querySelector('.close')
  .addEventListener('click', () => $('door').close());
$('sign').addEventListener('click', () => {
  if (!session.isSignedIn) return $('door').showModal();
  if (stop) stop();
  session.signOut();
  result.replaceChildren();
  $('messages').hidden = true;
  say('Signed out.');
  showWho();
});

// --- the rest -------------------------------------------------------------------------------------------------------

$('run').addEventListener('click', run);
$('stop').addEventListener('click', () => stop?.());
$('pause').addEventListener('click', () => pause(!messages.paused));
$('earlier').addEventListener('click', () => {
  if (!messages.paused) pause(true);
  showMessage(Math.max(0, messages.shown - 1));
});
$('later').addEventListener('click', () => showMessage(Math.min(messages.all.length - 1, messages.shown + 1)));
$('history').addEventListener('change', ({ target }) => {
  if (target.value === 'forget') {
    keep('history', '[]');
    showHistory();
  } else if (target.value) {
    query.value = history()[Number(target.value)] ?? query.value;
    typed();
    query.focus();
  }
  target.value = '';
});
$('docs').addEventListener('click', () => {
  $('schema').hidden = !$('schema').hidden;
  $('docs').setAttribute('aria-expanded', !$('schema').hidden);
  if (!$('schema').hidden) $('find').focus();
});
$('theme').addEventListener('click', () => {
  const { className } = document.documentElement;
  const seesDark = className ? className === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  dress(seesDark ? 'light' : 'dark');
});
document.addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey) && !$('door').open) {
    event.preventDefault();
    close();
    run();
  } else if (event.key === 'Escape' && stop && !$('door').open) stop();
});
$('variables').addEventListener('input', ({ target }) => {
  if (!isSecret(target.value)) keep('variables', target.value);
});

function dress(theme) {
  document.documentElement.className = theme;
  keep('theme', theme);
}

if (['light', 'dark'].includes(kept('theme'))) dress(kept('theme'));
query.value = kept('query') || WELCOME;
$('variables').value = kept('variables') ?? '';
typed();
showHistory();
showWho();
schema = docs.schema = await load(session).catch((error) => ({ why: error.message }));
