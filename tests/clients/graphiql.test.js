// GraphiQL in place of the console (deploy/graphiql), in a real browser.

import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

import { BROWSER, FLAGS, PATIENCE_MS, watch, withoutBrowser } from './support/browser.js';
import { Server } from './support/server.js';

const BUILT = fileURLToPath(new URL('../../deploy/graphiql/dist', import.meta.url));
const unbuilt =
  !existsSync(BUILT) &&
  process.env.ORIEL_REQUIRE_SERVERS !== '1' &&
  'deploy/graphiql is not built: npm ci && npm run build';
const skip = withoutBrowser || unbuilt;

let server;
let ada;
let browser;
before(async () => {
  if (skip) return;
  server = await Server.start({ set: `console_dir=${BUILT}` });
  ada = await server.register('Graphiql');
  browser = await chromium.launch({ executablePath: BROWSER, args: FLAGS });
});
after(async () => {
  await browser?.close();
  await server?.stop();
});

test('it asks and follows with a token, and nothing comes from elsewhere', { skip }, async (t) => {
  const context = await browser.newContext();
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  const seen = watch(page, server.url);
  t.after(() => context.close());
  await page.goto(server.url);

  const write = async (editor, text) => {
    await editor.locator('.monaco-editor:visible').click();
    await page.keyboard.press('Control+A');
    await page.keyboard.insertText(text);
    // The bracket that the editor closed by itself.
    await page.keyboard.press('Control+Shift+End');
    await page.keyboard.press('Delete');
    const [word] = text.match(/\w+/);
    await editor.locator('.view-lines:visible').filter({ hasText: word }).waitFor();
  };
  const result = page.locator('.result-window');
  const shows = (text, timeout = PATIENCE_MS) => result.filter({ hasText: text }).waitFor({ timeout });
  // The editor completes what is typed and hands it on a moment later. What was run too early is written once more.
  const asks = async (text, wanted) => {
    for (let attempt = 1; attempt < 5; attempt++) {
      await write(query, text);
      await page.keyboard.press('Control+Enter');
      const shown = await shows(wanted, 5_000).then(() => true, () => false);
      if (shown) return;
    }
    assert.fail(`${text} does not show ${wanted}: ${await result.innerText()}`);
  };

  await page.getByRole('button', { name: 'Headers' }).click();
  await write(page.getByRole('region', { name: 'Headers' }), JSON.stringify(ada.headers));
  const query = page.locator('.graphiql-query-editor');
  await asks('{ viewer { user { email } } }', 'graphiql@example.org');

  await asks('subscription { live { projects { totalCount } } }', /"totalCount":\s*0/);
  await ada.createProject('ONE');
  await shows(/"totalCount":\s*1/);
  // A text that was run half typed is refused; that is not what is looked for here.
  seen.complaints = seen.complaints.filter((complaint) => !complaint.includes('status of 400'));
  assert.deepEqual(seen, { complaints: [], elsewhere: [] });
});
