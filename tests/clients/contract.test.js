// The contract: nothing that was released is broken, and it keeps the rules of its trade.

import { CriticalityLevel, diff, DiffRule } from '@graphql-inspector/core';
import { ESLint } from 'eslint';
import { buildSchema } from 'graphql';
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const read = (path) => readFileSync(new URL(path, import.meta.url), 'utf8');
const contract = read('../../graphql.schema');

/** What would break a client of `released` that meets `now`. What was deprecated in the release may go. */
async function breaks(released, now) {
  const changes = await diff(buildSchema(released), buildSchema(now), [DiffRule.suppressRemovalOfDeprecatedField]);
  const breaking = changes.filter(({ criticality }) => criticality.level === CriticalityLevel.Breaking);
  return breaking.map(({ message }) => message);
}

async function complaints(schema) {
  const cwd = fileURLToPath(new URL('.', import.meta.url));
  const [{ messages }] = await new ESLint({ cwd }).lintText(schema, { filePath: 'graphql.schema' });
  return messages.map(({ line, ruleId, message }) => `graphql.schema:${line} ${message} (${ruleId})`);
}

test('nothing that was released is broken', async () => {
  assert.deepEqual(await breaks(read('released/graphql.schema'), contract), []);
});

test('what breaks a client is seen', async () => {
  const released = 'type Query { one(id: ID!): String! old: Int @deprecated(reason: "until 2027") }';
  assert.deepEqual(await breaks(released, 'type Query { one(id: ID!, more: Int): String! two: Int }'), []);
  for (const now of [
    'type Query { old: Int }',
    'type Query { one(id: ID!, more: Int!): String! old: Int }',
    'type Query { one(id: ID!): String old: Int }',
    'type Query { one: String! old: Int }',
  ]) {
    assert.equal((await breaks(released, now)).length, 1, now);
  }
});

test('the contract keeps the rules for schemas and for Relay', async () => {
  assert.deepEqual(await complaints(contract), []);
});

test('what breaks the rules is seen', async () => {
  const wrong = 'type thing { Number: Int } type ThingConnection { nodes: [thing] } type ThingEdge { node: thing }';
  const rules = (await complaints(wrong)).map((line) => line.match(/\(@graphql-eslint\/(.*)\)$/)?.[1]);
  for (const rule of ['naming-convention', 'require-description', 'strict-id-in-types', 'relay-connection-types']) {
    assert.ok(rules.includes(rule), `${rule} is not among ${rules}`);
  }
});
