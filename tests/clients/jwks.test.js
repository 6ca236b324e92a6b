// Access tokens are verified by another library (node:crypto, OpenSSL), with the keys that are published.

import assert from 'node:assert/strict';
import { createPublicKey, verify } from 'node:crypto';
import { after, before, test } from 'node:test';

import { Server } from './support/server.js';

let server;
before(async () => (server = await Server.start()));
after(() => server?.stop());

const decode = (part) => JSON.parse(Buffer.from(part, 'base64url'));

/** What a token says, if one of the published keys has signed it. */
async function claims(token) {
  const response = await fetch(`${server.url}/.well-known/jwks.json`);
  assert.equal(response.headers.get('cache-control'), 'public, max-age=60');
  const { keys } = await response.json();
  const [header, payload, signature] = token.split('.');
  const jwk = keys.find(({ kid }) => kid === decode(header).kid);
  assert.deepEqual([jwk.kty, jwk.crv, jwk.alg, jwk.use, jwk.d], ['OKP', 'Ed25519', 'EdDSA', 'sig', undefined]);
  const key = createPublicKey({ key: jwk, format: 'jwk' });
  const signed = Buffer.from(`${header}.${payload}`);
  return verify(null, signed, key, Buffer.from(signature, 'base64url')) ? decode(payload) : null;
}

test('a token is verified without asking, and after a rotation still', async () => {
  const ada = await server.register('Keys');
  const said = await claims(ada.token);
  const { viewer } = await ada.ask('{ viewer { user { id } organization { id } session { id } } }');
  assert.deepEqual([said.sub, said.org, said.sid], [viewer.user.id, viewer.organization.id, viewer.session.id]);
  assert.ok(said.exp > Date.now() / 1000);
  const [header, payload, signature] = ada.token.split('.');
  const other = Buffer.from(JSON.stringify({ ...decode(payload), sub: 'usr_00000000000000000000000000' }));
  assert.equal(await claims([header, other.toString('base64url'), signature].join('.')), null);

  const { signingKeyRotate } = await ada.ask('mutation { signingKeyRotate { keyIds userErrors { code } } }');
  assert.equal(signingKeyRotate.keyIds.length, 2);
  assert.equal((await claims(ada.token)).sub, viewer.user.id);
  await ada.ask('{ viewer { user { id } } }');
});
