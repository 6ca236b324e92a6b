// A real OpenID Connect provider for the tests of federation. Whom it knows stands in a file that it reads each time; its
// client is told it by the environment. Says where it listens; told SIGHUP, it has other keys, and those alone.
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';

import { Provider } from 'oidc-provider';

const client = JSON.parse(process.env.CLIENT);

// What the library has to say is not what a test waits for.
const say = (line) => process.stdout.write(`${line}\n`);
console.info = console.error;

const key = () => ({
  ...generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ format: 'jwk' }),
  alg: 'ES256',
  use: 'sig',
  kid: randomUUID(),
});

const made = (issuer) => {
  const provider = new Provider(issuer, {
    clients: [{ id_token_signed_response_alg: 'ES256', ...client }],
    jwks: { keys: [key()] },
    cookies: { keys: [randomUUID()] },
    claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name', 'groups'] },
    findAccount: (_, id) => ({
      accountId: id,
      claims: () => ({ sub: id, ...JSON.parse(readFileSync(process.env.PEOPLE))[id] }),
    }),
  });
  provider.on('server_error', (_, error) => console.error(error));
  return provider.callback();
};

let answer;
const server = createServer((request, response) => answer(request, response));
server.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  answer = made(issuer);
  process.on('SIGHUP', () => {
    answer = made(issuer);
    say('other keys');
  });
  say(issuer);
});
