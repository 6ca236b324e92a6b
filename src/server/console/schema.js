// The schema, learnt by introspection, and the pages on which it can be read.

const TYPE = 'kind name ofType { kind name ofType { kind name ofType { kind name ofType { kind name } } } }';
const INPUT = `name description defaultValue isDeprecated deprecationReason type { ${TYPE} }`;
const QUESTION = `query ConsoleSchema {
  __schema {
    queryType { name } mutationType { name } subscriptionType { name }
    types {
      kind name description
      fields(includeDeprecated: true) {
        name description isDeprecated deprecationReason type { ${TYPE} } args(includeDeprecated: true) { ${INPUT} }
      }
      inputFields(includeDeprecated: true) { ${INPUT} }
      enumValues(includeDeprecated: true) { name description isDeprecated deprecationReason }
      possibleTypes { name } interfaces { name }
    }
  }
}`;

/** As it is written: `[Project!]!`. */
export function written({ kind, name, ofType }) {
  if (kind === 'NON_NULL') return `${written(ofType)}!`;
  return kind === 'LIST' ? `[${written(ofType)}]` : name;
}

/** Asks for the schema; nothing when it is not shown. */
export async function load(session) {
  const { json } = await session.ask({ query: QUESTION });
  const found = json?.data?.__schema;
  if (!found) return { why: json?.errors?.[0]?.message ?? 'The schema is not shown.' };
  const types = new Map(found.types.filter(({ name }) => !name.startsWith('__')).map((type) => [type.name, type]));
  const root = (kind) => types.get(found[`${kind}Type`]?.name);
  const named = ({ name, ofType }) => (ofType ? named(ofType) : types.get(name));
  const roots = { query: root('query'), mutation: root('mutation'), subscription: root('subscription') };
  return { types, roots, named };
}

function element(tag, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Pages of the schema in `page`, where one is in `trail`, and a search by `find`. */
export class Docs {
  #schema = null;
  #way = [];

  constructor({ page, trail, find }) {
    Object.assign(this, { page, trail, find });
    find.addEventListener('input', () => this.#show());
  }

  set schema(schema) {
    this.#schema = schema;
    this.#way = this.#way.filter((name) => schema.types?.has(name));
    this.#show();
  }

  #go(way) {
    this.#way = way;
    this.find.value = '';
    this.#show();
    this.page.focus();
  }

  #show() {
    const { types, why } = this.#schema ?? {};
    this.page.scrollTop = 0;
    this.trail.replaceChildren();
    if (!types) return this.page.replaceChildren(element('p', {}, why ?? 'The schema is being read.'));
    const steps = ['Schema', ...this.#way].map((name, n) => {
      const step = element('button', { className: 'link', textContent: name });
      step.addEventListener('click', () => this.#go(this.#way.slice(0, n)));
      return [n ? ' › ' : '', step];
    });
    this.trail.append(...steps.flat());
    const wanted = this.find.value.trim().toLowerCase();
    const type = types.get(this.#way.at(-1));
    this.page.replaceChildren(...(wanted ? this.#found(wanted) : type ? this.#type(type) : this.#all()));
  }

  #link(name, text = name) {
    const link = element('button', { className: 'link', textContent: text });
    link.addEventListener('click', () => this.#go([...this.#way.filter((step) => step !== name), name]));
    return link;
  }

  #reference(type) {
    const named = this.#schema.named(type);
    return named ? this.#link(named.name, written(type)) : written(type);
  }

  #all() {
    const { roots, types } = this.#schema;
    const begin = Object.values(roots).filter(Boolean);
    const kinds = {
      OBJECT: 'Objects',
      INTERFACE: 'Interfaces',
      UNION: 'Unions',
      ENUM: 'Enumerations',
      INPUT_OBJECT: 'Inputs',
      SCALAR: 'Scalars',
    };
    const sections = Object.entries(kinds).flatMap(([kind, title]) => {
      const all = [...types.values()].filter((type) => type.kind === kind && !begin.includes(type));
      return all.length
        ? [element('h3', { textContent: title }), ...all.map(({ name }) => element('div', {}, this.#link(name)))]
        : [];
    });
    return [
      element('h3', { textContent: 'Where to begin' }),
      ...begin.map(({ name, description }) =>
        element('div', {}, this.#link(name), element('p', { textContent: description ?? '' })),
      ),
      ...sections,
    ];
  }

  #type(type) {
    const list = (title, names) =>
      names?.length
        ? [element('h3', { textContent: title }), ...names.map(({ name }) => element('div', {}, this.#link(name)))]
        : [];
    const entries = type.fields ?? type.inputFields ?? type.enumValues ?? [];
    return [
      element('h2', { textContent: type.name }),
      element('p', { textContent: type.description ?? '' }),
      ...list('Implements', type.interfaces),
      ...list('One of', type.possibleTypes),
      element('dl', {}, ...entries.flatMap((entry) => this.#entry(entry))),
    ];
  }

  #entry({ name, description, type, args, defaultValue, isDeprecated, deprecationReason }) {
    const term = element('dt', {}, element('span', { className: isDeprecated ? 'gone' : 'name', textContent: name }));
    if (args?.length) {
      const each = args.map((arg, n) => [
        n ? ', ' : '',
        element('span', { title: arg.description ?? '', textContent: `${arg.name}: ` }),
        this.#reference(arg.type),
      ]);
      term.append('(', ...each.flat(), ')');
    }
    if (type) term.append(': ', this.#reference(type));
    if (defaultValue) term.append(` = ${defaultValue}`);
    const told = [description, isDeprecated && `Deprecated: ${deprecationReason ?? 'it will go'}`]
      .filter(Boolean)
      .join('\n');
    return [term, element('dd', { textContent: told })];
  }

  #found(wanted) {
    const all = [...this.#schema.types.values()].flatMap((type) => [
      { type: type.name, name: type.name, title: type.name },
      ...(type.fields ?? type.inputFields ?? type.enumValues ?? []).map(({ name }) => ({
        type: type.name,
        name,
        title: `${type.name}.${name}`,
      })),
    ]);
    // What is called exactly so comes first, then what begins so.
    const rank = (name) => [name === wanted, name.startsWith(wanted), name.includes(wanted)].indexOf(true);
    const ranked = all.map((one) => ({ ...one, rank: rank(one.name.toLowerCase()) })).filter((one) => one.rank >= 0);
    const best = ranked.sort((one, other) => one.rank - other.rank).slice(0, 100);
    const found = best.map(({ type, title }) => element('div', {}, this.#link(type, title)));
    return found.length ? found : [element('p', { textContent: 'Nothing is called so.' })];
  }
}
