// Passkeys in a real browser, whose authenticator is Chromium's own virtual one (WebAuthn in the DevTools protocol).

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { after, before, test } from 'node:test';
import { chromium } from 'playwright-core';

import { BROWSER, FLAGS, PATIENCE_MS, withoutBrowser as skip } from './support/browser.js';
import { Server, Session } from './support/server.js';

const PASSWORD = 'correct horse battery';

let server;
let browser;
before(async () => {
  if (skip) return;
  server = await Server.start();
  browser = await chromium.launch({ executablePath: BROWSER, args: FLAGS });
});
after(async () => {
  await browser?.close();
  await server?.stop();
});

/** The page of this server under the name that passkeys have. */
const home = () => server.url.replace('127.0.0.1', 'localhost');

/** A browser with an authenticator of its own that knows its person. */
async function device(t) {
  const context = await browser.newContext();
  t.after(() => context.close());
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  await page.goto(home());
  const devtools = await context.newCDPSession(page);
  await devtools.send('WebAuthn.enable');
  const options = {
    protocol: 'ctap2',
    ctap2Version: 'ctap2_1',
    transport: 'internal',
    hasResidentKey: true,
    hasUserVerification: true,
    isUserVerified: true,
    automaticPresenceSimulation: true,
  };
  const { authenticatorId } = await devtools.send('WebAuthn.addVirtualAuthenticator', { options });
  return {
    page,
    devtools,
    authenticatorId,
    /** What the browser makes of these options, as JSON. */
    create: (json) =>
      page.evaluate(async (json) => {
        const publicKey = PublicKeyCredential.parseCreationOptionsFromJSON(json);
        return (await navigator.credentials.create({ publicKey })).toJSON();
      }, json),
    get: (json) =>
      page.evaluate(async (json) => {
        const publicKey = PublicKeyCredential.parseRequestOptionsFromJSON(json);
        return (await navigator.credentials.get({ publicKey })).toJSON();
      }, json),
  };
}

/** Carries out the mutation `field(input: …)`. */
async function mutate(session, field, input, selection) {
  const type = `${field[0].toUpperCase()}${field.slice(1)}Input!`;
  const query = `mutation ($input: ${type}) { ${field}(input: $input) { ${selection} userErrors { code path } } }`;
  return (await session.ask(query, { input }))[field];
}

const nobody = () => new Session(server, '');

/** Registers a passkey of this person on this device. */
async function register(person, on, name = 'Chromium') {
  const begun = await mutate(
    person,
    'passkeyRegistrationBegin',
    { currentPassword: PASSWORD },
    'challengeToken options',
  );
  assert.deepEqual(begun.userErrors, []);
  const credential = await on.create(begun.options);
  const input = { challengeToken: begun.challengeToken, credential, name };
  const made = await mutate(
    person,
    'passkeyRegister',
    input,
    'passkey { id name transports backedUp } recoveryCodes',
  );
  assert.deepEqual(made.userErrors, []);
  return made;
}

/** What this device answers to a new challenge, as an input of `passkeyLogin`. */
async function signed(on, begin = {}) {
  const begun = await mutate(nobody(), 'passkeyLoginBegin', begin, 'challengeToken options');
  assert.deepEqual(begun.userErrors, []);
  return { challengeToken: begun.challengeToken, credential: await on.get(begun.options) };
}

const login = (input) =>
  mutate(nobody(), 'passkeyLogin', input, 'accessToken viewer { user { email } session { method } }');

const codes = (payload) => payload.userErrors.map((error) => error.code);

test('a passkey signs in without a password, once for each challenge', { skip }, async (t) => {
  const ada = await server.register('Passkey');
  const on = await device(t);
  const { passkey, recoveryCodes } = await register(ada, on);
  assert.equal(recoveryCodes.length, 10);
  assert.equal(passkey.name, 'Chromium');
  assert.deepEqual(passkey.transports, ['internal']);

  const input = await signed(on);
  const done = await login(input);
  assert.deepEqual(done.userErrors, []);
  assert.deepEqual(done.viewer, { user: { email: 'passkey@example.org' }, session: { method: 'PASSKEY' } });
  const there = new Session(server, done.accessToken);
  const { viewer } = await there.ask('{ viewer { passkeys { lastUsedAt } secondFactor { recoveryCodesLeft } } }');
  assert.ok(viewer.passkeys[0].lastUsedAt);
  assert.equal(viewer.secondFactor.recoveryCodesLeft, 10);
  assert.deepEqual(codes(await login(input)), ['INVALID_CREDENTIALS'], 'replayed');
  assert.deepEqual((await login(await signed(on))).userErrors, []);
  // The same device is not registered twice: the browser knows that it has one.
  await assert.rejects(register(ada, on), /InvalidStateError|already registered/);
});

test('after a password it is the second factor', { skip }, async (t) => {
  const bob = await server.register('Factors');
  const on = await device(t);
  await register(bob, on);
  const typed = { email: 'factors@example.org', password: PASSWORD };
  const challenged = await mutate(nobody(), 'login', typed, 'accessToken mfaToken mfaMethods');
  assert.deepEqual(codes(challenged), ['MFA_REQUIRED']);
  assert.equal(challenged.accessToken, null);
  assert.deepEqual(challenged.mfaMethods, ['PASSKEY', 'RECOVERY_CODE']);
  const done = await login(await signed(on, { mfaToken: challenged.mfaToken }));
  assert.deepEqual(done.userErrors, []);
  assert.equal(done.viewer.session.method, 'PASSWORD_AND_PASSKEY');
});

test('what was signed on a page of somebody else is refused', { skip }, async (t) => {
  const eve = createServer((_, response) => {
    response.setHeader('content-type', 'text/html');
    response.end('<!doctype html><title>Elsewhere</title>');
  });
  eve.listen(0, '127.0.0.1');
  await once(eve, 'listening');
  t.after(() => eve.close());
  const ada = await server.register('Origins');
  const on = await device(t);
  await register(ada, on);
  // Browsers take every port for the same domain: the server does not.
  await on.page.goto(`http://localhost:${eve.address().port}`);
  assert.deepEqual(codes(await login(await signed(on))), ['INVALID_CREDENTIALS']);
  await on.page.goto(home());
  assert.deepEqual((await login(await signed(on))).userErrors, []);
});

test('a copy that counted less is refused, and so is a removed passkey', { skip }, async (t) => {
  const ada = await server.register('Copies');
  const on = await device(t);
  const { passkey } = await register(ada, on);
  assert.deepEqual((await login(await signed(on))).userErrors, []);
  assert.deepEqual((await login(await signed(on))).userErrors, []);
  const { authenticatorId } = on;
  const { credentials } = await on.devtools.send('WebAuthn.getCredentials', { authenticatorId });
  const [credential] = credentials;
  assert.ok(credential.signCount > 2);
  const replace = async (signCount) => {
    const { credentialId } = credential;
    await on.devtools.send('WebAuthn.removeCredential', { authenticatorId, credentialId });
    await on.devtools.send('WebAuthn.addCredential', { authenticatorId, credential: { ...credential, signCount } });
  };
  await replace(0);
  assert.deepEqual(codes(await login(await signed(on))), ['INVALID_CREDENTIALS']);
  await replace(credential.signCount + 10);
  assert.deepEqual((await login(await signed(on))).userErrors, []);

  const remove = { id: passkey.id, currentPassword: PASSWORD };
  assert.deepEqual(codes(await mutate(ada, 'passkeyRemove', remove, 'position')), []);
  assert.deepEqual(codes(await login(await signed(on))), ['INVALID_CREDENTIALS']);
});

test('who is not verified by the authenticator is not signed in', { skip }, async (t) => {
  const ada = await server.register('Verified');
  const on = await device(t);
  await register(ada, on);
  const { authenticatorId } = on;
  await on.devtools.send('WebAuthn.setUserVerified', { authenticatorId, isUserVerified: false });
  await assert.rejects(signed(on), /NotAllowedError/);
});
