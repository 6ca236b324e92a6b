// `oriel serve` in a folder and on a port of its own, for one test file; ended by its pid.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const BUILT = fileURLToPath(new URL('../../../target/debug/oriel', import.meta.url));
const PROGRAM = process.env.ORIEL_BIN ?? BUILT;
const PATIENCE_MS = 60_000;

// Whatever becomes of a test, no server outlives it.
const running = new Set();
process.on('exit', () => running.forEach((server) => server.kill('SIGKILL')));
for (const [signal, code] of Object.entries({ SIGHUP: 129, SIGINT: 130, SIGTERM: 143 })) {
  process.on(signal, () => process.exit(code));
}

export class Server {
  #process;
  #folder;
  #settings;
  /** What it has written so far, line by line. */
  log = [];
  /** Where it listens, without a path. */
  url;

  constructor(folder, settings) {
    this.#folder = folder;
    this.#settings = settings;
  }

  /** A server on an empty installation. `settings` are flags, such as `{ 'max-batch': 2 }`. */
  static async start(settings = {}) {
    if (!existsSync(PROGRAM)) throw new Error(`${PROGRAM} is not there: run \`cargo build -p oriel\` first`);
    const server = new Server(await mkdtemp(join(tmpdir(), 'oriel-clients-')), settings);
    await server.#launch('127.0.0.1:0');
    return server;
  }

  get endpoint() {
    return `${this.url}/graphql`;
  }

  get socket() {
    return this.endpoint.replace(/^http/, 'ws');
  }

  async #launch(listen) {
    const flags = Object.entries(this.#settings).flatMap(([name, value]) => [`--${name}`, String(value)]);
    const data = ['--data', join(this.#folder, 'data')];
    const command = ['serve', '--listen', listen, '--log-format', 'json', ...data, ...flags];
    const started = spawn(PROGRAM, command, { env: {}, stdio: ['ignore', 'pipe', 'pipe'] });
    this.#process = started;
    running.add(started);
    started.once('exit', () => running.delete(started));
    this.url = await new Promise((found, failed) => {
      setTimeout(() => failed(this.#trouble('does not listen')), PATIENCE_MS).unref();
      for (const stream of [started.stdout, started.stderr]) {
        createInterface({ input: stream }).on('line', (line) => {
          this.log.push(line);
          const [address] = line.match(/http:\/\/127\.0\.0\.1:\d+/) ?? [];
          if (address) found(address);
        });
      }
      started.once('exit', () => failed(this.#trouble('has ended')));
      started.once('error', failed);
    });
  }

  #trouble(what) {
    return new Error(`The server ${what}:\n${this.log.slice(-40).join('\n')}`);
  }

  /** Asks it to end, and waits. */
  async #end() {
    if (this.#process.exitCode !== null || this.#process.signalCode !== null) return;
    const ended = once(this.#process, 'exit');
    this.#process.kill('SIGTERM');
    await ended;
  }

  /** Ends it and starts it again: the same data, the same address. */
  async restart() {
    const { host } = new URL(this.url);
    await this.#end();
    await this.#launch(host);
  }

  /** Ends it and takes its folder away. */
  async stop() {
    await this.#end();
    await rm(this.#folder, { recursive: true, force: true });
  }

  /** A new organisation and its owner, signed in. */
  async register(name) {
    const input = {
      organizationName: name,
      name: `${name} Owner`,
      email: `${name.toLowerCase()}@example.org`,
      password: 'correct horse battery',
    };
    const mutation = 'mutation ($input: RegisterInput!) { register(input: $input) { accessToken } }';
    const data = await new Session(this, '').ask(mutation, { input });
    return new Session(this, data.register.accessToken);
  }
}

/** Somebody who is signed in, asking with `fetch` alone: what a test needs beside the client that it is about. */
export class Session {
  constructor(server, token) {
    this.server = server;
    this.token = token;
  }

  get headers() {
    return this.token ? { authorization: `Bearer ${this.token}` } : {};
  }

  /** The data of an answer without errors. */
  async ask(query, variables = {}) {
    const response = await fetch(this.server.endpoint, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...this.headers },
      body: JSON.stringify({ query, variables }),
    });
    const answer = await response.json();
    if (answer.errors) throw new Error(`${query}\n${JSON.stringify(answer, null, 2)}`);
    return answer.data;
  }

  /** A new project; its id. */
  async createProject(key, name = `Project ${key}`) {
    const mutation = `mutation ($input: ProjectCreateInput!) {
      projectCreate(input: $input) { project { id } userErrors { message } }
    }`;
    const { projectCreate } = await this.ask(mutation, { input: { key, name } });
    if (!projectCreate.project) throw new Error(JSON.stringify(projectCreate.userErrors));
    return projectCreate.project.id;
  }

  /** Gives a project another name. */
  async renameProject(id, name) {
    const mutation = `mutation ($input: ProjectUpdateInput!) {
      projectUpdate(input: $input) { userErrors { message } }
    }`;
    const { projectUpdate } = await this.ask(mutation, { input: { id, name } });
    if (projectUpdate.userErrors.length) throw new Error(JSON.stringify(projectUpdate.userErrors));
  }
}
