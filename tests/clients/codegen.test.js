// graphql-codegen and TypeScript: a typed program compiles against the contract, and a wrong one does not.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { copyFile, mkdir, rm } from 'node:fs/promises';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const HERE = fileURLToPath(new URL('.', import.meta.url));

/** Runs a program of the packages; what it says when it fails. */
async function run(program, ...arguments_) {
  const path = fileURLToPath(new URL(`node_modules/.bin/${program}`, import.meta.url));
  const { error, stdout, stderr } = await promisify(execFile)(path, arguments_, { cwd: HERE }).catch((error) => ({
    error,
    ...error,
  }));
  assert.equal(error, undefined, `${program}:\n${stdout}${stderr}`);
}

test('the client preset generates types, and the program compiles with them', async () => {
  const written = new URL('codegen/__generated__/', import.meta.url);
  await rm(written, { recursive: true, force: true });
  await mkdir(written);
  // The generator knows a schema by the ending of its name.
  await copyFile(new URL('../../graphql.schema', import.meta.url), new URL('schema.graphql', written));
  await run('graphql-codegen', '--config', 'codegen/config.js');
  await run('tsc', '-p', 'codegen');
});
