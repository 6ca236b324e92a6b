// The console at `/`, in a real browser: nothing from elsewhere, nothing against the policy, and it does its work.

import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { after, before, test } from 'node:test';
import { chromium } from 'playwright-core';

import { BROWSER, FLAGS, PATIENCE_MS, watch, withoutBrowser as skip } from './support/browser.js';
import { Server } from './support/server.js';

let server;
let ada;
let browser;
before(async () => {
  if (skip) return;
  server = await Server.start();
  ada = await server.register('Console');
  await ada.createProject('ONE');
  browser = await chromium.launch({ executablePath: BROWSER, args: FLAGS });
});
after(async () => {
  await browser?.close();
  await server?.stop();
});

/** The console in a browser that knows nothing yet; it may not complain, nor ask anybody else. */
async function open(t, options = {}) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  const seen = watch(page, server.url);
  t.after(async () => {
    await context.close();
    assert.deepEqual(seen, { complaints: [], elsewhere: [] });
  });
  const response = await page.goto(server.url);
  assert.equal(response.headers()['content-security-policy'], "default-src 'self'");
  return page;
}

async function signIn(page) {
  await page.getByRole('button', { name: 'Sign in' }).click();
  const door = page.getByRole('dialog');
  await door.getByLabel('E-mail address').fill('console@example.org');
  await door.getByLabel('Password').fill('correct horse battery');
  await door.getByRole('button', { name: 'Sign in' }).click();
  await page.getByText('Console Owner · Console').waitFor();
}

const type = (page, text) => page.getByLabel('GraphQL document').fill(text);
const shown = async (page) => JSON.parse(await page.getByLabel('JSON', { exact: true }).textContent());
const status = (page, text) => page.getByRole('status').filter({ hasText: text }).waitFor();

test('it asks with variables and shows what is answered', { skip }, async (t) => {
  const page = await open(t);
  await type(page, 'query One { __typename } query Two($name: String!) { __type(name: $name) { name } }');
  await page.getByLabel('Variables').fill('{ "name": "Project" }');
  await page.getByRole('combobox', { name: 'Operation' }).selectOption('Two');
  await page.keyboard.press('Control+Enter');
  await status(page, /200 · .* ms · .*cost/);
  assert.deepEqual((await shown(page)).data, { __type: { name: 'Project' } });

  await page.getByLabel('Variables').fill('{ name }');
  await page.getByRole('button', { name: 'Run' }).click();
  await status(page, 'The variables are not JSON');
});

test('it uploads the files that are chosen, to where the variables say', { skip }, async (t) => {
  const page = await open(t);
  await signIn(page);
  const id = await ada.createProject('FILES');
  await type(
    page,
    'mutation Upload($input: DocumentUploadInput!) { documentUpload(input: $input) { document { title size } } }',
  );
  await page.getByText('Files', { exact: true }).click();
  const file = { name: 'notes.txt', mimeType: 'text/plain', buffer: Buffer.from('algebraical patterns') };
  await page.getByLabel('Files', { exact: true }).setInputFiles(file);
  await page.getByLabel('Variables').fill(JSON.stringify({ input: { projectId: id } }));
  await page.getByRole('button', { name: 'Run' }).click();
  await status(page, 'Say where notes.txt belongs');

  await page.getByLabel('Variables').fill(JSON.stringify({ input: { projectId: id, file: '@1' } }));
  await page.getByRole('button', { name: 'Run' }).click();
  await status(page, '200');
  assert.deepEqual((await shown(page)).data.documentUpload.document, { title: 'notes', size: 20 });
});

test('who signs in is known until the page is left, and a bad password is said', { skip }, async (t) => {
  const page = await open(t);
  await page.getByRole('button', { name: 'Sign in' }).click();
  const door = page.getByRole('dialog');
  await door.getByLabel('E-mail address').fill('console@example.org');
  await door.getByLabel('Password').fill('something else');
  await door.getByRole('button', { name: 'Sign in' }).click();
  await door.getByRole('alert').filter({ hasText: /\w/ }).waitFor();
  await page.keyboard.press('Escape');

  await signIn(page);
  await type(page, '{ viewer { user { email } } }');
  await page.keyboard.press('Control+Enter');
  await status(page, '200');
  assert.equal((await shown(page)).data.viewer.user.email, 'console@example.org');
  const kept = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie]));
  assert.ok(!/eyJ|horse|oriel_at_least/.test(kept), kept);

  await page.getByRole('button', { name: 'Sign out' }).click();
  await page.keyboard.press('Control+Enter');
  await status(page, '200');
  assert.equal((await shown(page)).data.viewer, null);
  await page.reload();
  await page.getByRole('button', { name: 'Sign in' }).waitFor();
});

test('a live query changes by itself, waits while it is paused, and stops', { skip }, async (t) => {
  const page = await open(t);
  await signIn(page);
  await type(page, 'subscription { live { projects { totalCount } } }');
  await page.keyboard.press('Control+Enter');
  await status(page, 'Live');
  const count = async () => (await shown(page)).data.live.projects.totalCount;
  const before = await count();
  await ada.createProject('TWO');
  await page.getByText('message 2 of 2').waitFor();
  assert.equal(await count(), before + 1);

  await page.getByRole('button', { name: 'Pause' }).click();
  await ada.createProject('THREE');
  await page.getByText('message 2 of 3').waitFor();
  assert.equal(await count(), before + 1, 'what is paused stands still');
  await page.getByRole('button', { name: 'Go on' }).click();
  await page.getByText('message 3 of 3').waitFor();
  assert.equal(await count(), before + 2);
  await page.getByRole('button', { name: 'The message before' }).click();
  assert.equal(await count(), before + 1);

  await page.getByLabel('GraphQL document').focus();
  await page.keyboard.press('Escape');
  await status(page, '3 messages · stopped');
});

test('a live query outlives the token with which it began', { skip }, async (t) => {
  const page = await open(t);
  const sockets = [];
  await page.routeWebSocket(/graphql/, (socket) => {
    socket.connectToServer();
    sockets.push(socket);
  });
  await signIn(page);
  await type(page, 'subscription { live { projects { totalCount } } }');
  await page.keyboard.press('Control+Enter');
  await page.getByText('message 1 of 1').waitFor();
  // As the server does it when the token ends.
  await sockets[0].close({ code: 4403, reason: 'Forbidden' });
  await page.getByText('message 2 of 2').waitFor();
  await status(page, 'Live');
  assert.equal(sockets.length, 2);
  await page.getByRole('button', { name: 'Stop' }).click();
  await status(page, '2 messages · stopped');
});

test('the schema is read, searched and completed from', { skip }, async (t) => {
  const page = await open(t, { colorScheme: 'dark' });
  await page.getByRole('button', { name: 'Schema', exact: true }).click();
  const schema = page.getByRole('complementary', { name: 'Schema' });
  await schema.getByRole('searchbox').fill('documentcount');
  await schema.getByRole('button', { name: 'Project.documentCount' }).click();
  await schema.getByRole('heading', { name: 'Project' }).waitFor();
  await schema.getByText('documentCount', { exact: true }).waitFor();

  await type(page, '');
  const editor = page.getByLabel('GraphQL document');
  await editor.pressSequentially('{ projects(fir');
  await page.getByRole('option', { name: /^first/ }).waitFor();
  await page.keyboard.press('Enter');
  assert.equal(await editor.inputValue(), '{ projects(first)}');
  await editor.press('End');
  await editor.press('ArrowLeft');
  await editor.pressSequentially(' { totalC');
  await page.getByRole('option', { name: /^totalCount/ }).waitFor();
  await page.keyboard.press('Tab');
  assert.match(await editor.inputValue(), /totalCount/);
});

test('it can be used with the keyboard, on a small screen, and without seeing', { skip }, async (t) => {
  const page = await open(t, { viewport: { width: 390, height: 800 } });
  const nameless = await page.evaluate(() => {
    const all = [...document.querySelectorAll('button, select, input, textarea')];
    const named = (one) => one.labels?.length || one.getAttribute('aria-label') || one.textContent.trim();
    return all.filter((one) => !named(one)).map((one) => one.outerHTML);
  });
  assert.deepEqual(nameless, []);
  const isWide = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
  assert.equal(isWide, false, 'nothing is beside the screen');
  await page.getByRole('button', { name: 'Run' }).focus();
  const walk = [];
  for (let n = 0; n < 8; n += 1) {
    walk.push(await page.evaluate(() => document.activeElement.id));
    await page.keyboard.press('Tab');
  }
  assert.deepEqual(walk.slice(0, 1), ['run']);
  assert.ok(walk.includes('query'), `the editor is reached with the tabulator: ${walk}`);
});

/** The code of an authenticator (RFC 6238), so many steps of thirty seconds from now. */
function code(secret, now, steps) {
  const letters = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567';
  const bits = [...secret].map((letter) => letters.indexOf(letter).toString(2).padStart(5, '0')).join('');
  const key = Buffer.from(bits.match(/.{8}/g).map((byte) => parseInt(byte, 2)));
  const counter = Buffer.alloc(8);
  counter.writeBigUInt64BE(BigInt(Math.floor(now / 30_000) + steps));
  const mac = createHmac('sha1', key).update(counter).digest();
  return String((mac.readUInt32BE(mac.at(-1) & 15) & 0x7fffffff) % 1_000_000).padStart(6, '0');
}

test('who has a second factor signs in with it', { skip }, async (t) => {
  const bob = await server.register('Factor');
  const begin = `mutation { totpBegin(input: { currentPassword: "correct horse battery" }) { secret } }`;
  const { secret } = (await bob.ask(begin)).totpBegin;
  const now = Date.now();
  const confirm = `mutation ($input: TotpConfirmInput!) { totpConfirm(input: $input) { userErrors { code } } }`;
  const confirmed = await bob.ask(confirm, { input: { code: code(secret, now, 0) } });
  assert.deepEqual(confirmed.totpConfirm.userErrors, []);

  const page = await open(t);
  await page.getByRole('button', { name: 'Sign in' }).click();
  const door = page.getByRole('dialog');
  assert.equal(await door.getByLabel('Code').isVisible(), false);
  await door.getByLabel('E-mail address').fill('factor@example.org');
  await door.getByLabel('Password').fill('correct horse battery');
  await door.getByRole('button', { name: 'Sign in' }).click();
  // One that was used is told, and the next is good.
  for (const steps of [0, 1]) {
    await door.getByLabel('Code').fill(code(secret, now, steps));
    await door.getByRole('button', { name: 'Sign in' }).click();
    if (!steps) await door.getByRole('alert').filter({ hasText: /wrong, or was used/ }).waitFor();
  }
  await page.getByText('Factor Owner · Factor').waitFor();
});
