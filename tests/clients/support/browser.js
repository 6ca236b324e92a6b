// Chromium, and what a page in it complains of.

import { existsSync } from 'node:fs';

export const BROWSER = process.env.ORIEL_CHROMIUM ?? '/usr/bin/chromium';
/** It asks nobody but the page's server. */
export const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];
export const PATIENCE_MS = 60_000;

/** Why tests in a browser do not run, if they do not: for the option `skip` of a test. */
export const withoutBrowser =
  !existsSync(BROWSER) &&
  process.env.ORIEL_REQUIRE_SERVERS !== '1' &&
  `there is no ${BROWSER}: install the Debian package chromium`;

/** What a page complains of, a violated policy among it, and whom it asks beside its server. */
export function watch(page, url) {
  const seen = { complaints: [], elsewhere: [] };
  const look = (asked) => new URL(asked).host !== new URL(url).host && seen.elsewhere.push(asked);
  page.on(
    'console',
    (message) => ['error', 'warning'].includes(message.type()) && seen.complaints.push(message.text()),
  );
  page.on('pageerror', (error) => seen.complaints.push(error.message));
  page.on('request', (request) => !/^(blob|data):/.test(request.url()) && look(request.url()));
  page.on('websocket', (socket) => look(socket.url()));
  return seen;
}
