// Python in the environment that `.ci/clients` makes; see README.md for one made by hand.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const PYTHON = process.env.ORIEL_CLIENTS_PYTHON;
const MODULES = fileURLToPath(new URL('../python/', import.meta.url));

/** Why tests in Python do not run, if they do not: for the option `skip` of a test. */
export const withoutPython =
  !PYTHON && process.env.ORIEL_REQUIRE_SERVERS !== '1' && 'ORIEL_CLIENTS_PYTHON names no interpreter; see README.md';

/** Runs a program of the environment with the modules of `python/`; a failure shows what it said. */
export async function run(program, arguments_, environment = {}) {
  assert.ok(PYTHON, 'ORIEL_CLIENTS_PYTHON has to name the interpreter of an environment; see README.md');
  const path = join(dirname(PYTHON), program);
  // What it writes goes away with its folder.
  const cwd = await mkdtemp(join(tmpdir(), 'oriel-clients-'));
  const usual = { PATH: process.env.PATH, HOME: cwd, PYTHONPATH: MODULES, PYTHONDONTWRITEBYTECODE: '1' };
  const options = { cwd, env: { ...usual, ...environment }, maxBuffer: 64 << 20 };
  const { error, stdout, stderr } = await promisify(execFile)(path, arguments_, options).catch((error) => ({
    error,
    ...error,
  }));
  await rm(cwd, { recursive: true, force: true });
  assert.equal(error, undefined, `${program} ${arguments_.join(' ')}:\n${stdout}${stderr}`);
}
