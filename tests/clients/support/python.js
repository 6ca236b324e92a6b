// Python in the environment that `.ci/clients` makes; see README.md for one made by hand.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const PYTHON = process.env.ORIEL_CLIENTS_PYTHON;
const HERE = fileURLToPath(new URL('../python/', import.meta.url));

/** Why tests in Python do not run, if they do not: for the option `skip` of a test. */
export const withoutPython =
  !PYTHON && process.env.ORIEL_REQUIRE_SERVERS !== '1' && 'ORIEL_CLIENTS_PYTHON names no interpreter; see README.md';

/** Runs a program of the environment in the folder of the Python tests; what it says, which a failure shows. */
export async function run(program, arguments_, environment = {}) {
  assert.ok(PYTHON, 'ORIEL_CLIENTS_PYTHON has to name the interpreter of an environment; see README.md');
  const path = join(dirname(PYTHON), program);
  const options = { cwd: HERE, env: { PATH: process.env.PATH, ...environment }, maxBuffer: 64 << 20 };
  const { error, stdout, stderr } = await promisify(execFile)(path, arguments_, options).catch((error) => ({
    error,
    ...error,
  }));
  assert.equal(error, undefined, `${program} ${arguments_.join(' ')}:\n${stdout}${stderr}`);
  return stdout;
}
