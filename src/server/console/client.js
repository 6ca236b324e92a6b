// Asks the endpoint: one answer over HTTP, many over a WebSocket (graphql-transport-ws). Tokens are kept in memory.

const ENDPOINT = new URL('graphql', document.baseURI);
const SESSION = 'accessToken refreshToken expiresAt mfaToken userErrors { code message }';
const LOGIN = `mutation ConsoleLogin($input: LoginInput!) { session: login(input: $input) { ${SESSION} } }`;
const VERIFY = `mutation ConsoleVerify($input: LoginVerifyInput!) { session: loginVerify(input: $input) { ${SESSION} } }`;
const REFRESH = `mutation ConsoleRefresh($input: SessionRefreshInput!) {
  session: sessionRefresh(input: $input) { ${SESSION} }
}`;
const VIEWER = 'query ConsoleViewer { viewer { user { name } organization { name } } }';
/** A token that ends sooner is replaced first. */
const SOON_MS = 30_000;

/** Who is signed in. */
export class Session {
  #token = null;
  #refresh = null;
  #ends = Infinity;
  #refreshing = null;
  /** Stands for a password that was right, until the second factor is shown. */
  #challenge = null;

  get isSignedIn() {
    return this.#token !== null;
  }

  get wantsCode() {
    return this.#challenge !== null;
  }

  /** If a second factor is asked for, this is done once more, with a code of it. */
  async signIn(email, password, code) {
    const mfaToken = this.#challenge;
    if (!mfaToken) return this.#exchange(LOGIN, { email, password });
    return this.#exchange(VERIFY, { mfaToken, code });
  }

  /** Begins anew. */
  forgetChallenge() {
    this.#challenge = null;
  }

  useToken(token) {
    this.signOut();
    this.#token = token.trim().replace(/^bearer\s+/i, '');
  }

  signOut() {
    [this.#token, this.#refresh, this.#ends] = [null, null, Infinity];
  }

  /** Who that is, in words. */
  async whoami() {
    const { json } = await this.ask({ query: VIEWER });
    const { user, organization } = json?.data?.viewer ?? {};
    if (!user) throw new Error(json?.errors?.[0]?.message ?? "This token is nobody's.");
    return [user.name, organization?.name].filter(Boolean).join(' · ');
  }

  /** The access token, a new one if it ends soon. */
  async token() {
    if (this.#refresh && this.#ends - Date.now() < SOON_MS) await this.#renew();
    return this.#token;
  }

  /** One answer; refreshes the session once if the token is not good any more. */
  async ask(request, headers = {}, signal = undefined, files = []) {
    const first = await send(request, headers, await this.token(), signal, files);
    if (first.status !== 401 || !this.#refresh) return first;
    await this.#renew();
    return send(request, headers, this.#token, signal, files);
  }

  /** A refresh token is good once: whoever needs a new access token meanwhile waits for the same. */
  #renew() {
    const input = { refreshToken: this.#refresh };
    this.#refreshing ??= this.#exchange(REFRESH, input).finally(() => (this.#refreshing = null));
    return this.#refreshing;
  }

  async #exchange(query, input) {
    const { json } = await send({ query, variables: { input } }, {}, null);
    const session = json?.data?.session;
    if (session?.mfaToken) {
      this.#challenge = session.mfaToken;
      throw new Error('Type the code that your authenticator shows, or a recovery code.');
    }
    if (!session?.accessToken) {
      if (session?.userErrors.some(({ code }) => code === 'EXPIRED')) this.forgetChallenge();
      const [wrong] = [...(session?.userErrors ?? []), ...(json?.errors ?? [])];
      if (query === REFRESH) this.signOut();
      throw new Error(wrong?.message ?? 'The server does not answer.');
    }
    [this.#token, this.#refresh] = [session.accessToken, session.refreshToken];
    this.forgetChallenge();
    this.#ends = session.expiresAt ? Date.parse(session.expiresAt) : Infinity;
  }
}

/** The GraphQL multipart request specification. `files`: each with the paths of its places. */
function form(request, files) {
  const body = new FormData();
  body.set('operations', JSON.stringify(request));
  body.set('map', JSON.stringify(Object.fromEntries(files.map(({ paths }, n) => [n, paths]))));
  files.forEach(({ file }, n) => body.set(String(n), file));
  return body;
}

async function send(request, headers, token, signal, files = []) {
  const began = performance.now();
  const all = new Headers({
    // That of a form, with its boundary, is the browser's.
    ...(files.length ? { 'graphql-require-preflight': '1' } : { 'content-type': 'application/json' }),
    accept: 'application/graphql-response+json, application/json;q=0.9',
    ...(token ? { authorization: `Bearer ${token}` } : {}),
  });
  for (const [name, value] of Object.entries(headers)) all.set(name, value);
  const body = files.length ? form(request, files) : JSON.stringify(request);
  const response = await fetch(ENDPOINT, { method: 'POST', headers: all, body, signal });
  const text = await response.text();
  let json = null;
  try {
    json = JSON.parse(text);
  } catch {
    // It is shown as it came.
  }
  return { status: response.status, ms: performance.now() - began, size: text.length, text, json };
}

/** The server closes what is open when the token ends. */
export const TOKEN_ENDED = 4403;

/** Follows a subscription. `heard`: next(answer), ended(why, isFailure, code). Gives what ends it. */
export function follow(request, token, heard) {
  const url = new URL(ENDPOINT);
  url.protocol = url.protocol.replace('http', 'ws');
  const socket = new WebSocket(url, 'graphql-transport-ws');
  const say = (message) => socket.readyState === WebSocket.OPEN && socket.send(JSON.stringify(message));
  let over = false;
  const end = (why, isFailure, code) => {
    if (over) return;
    over = true;
    heard.ended(why, isFailure, code);
    say({ id: '1', type: 'complete' });
    socket.close(1000);
  };
  socket.onopen = () => say({ type: 'connection_init', payload: token ? { authorization: `Bearer ${token}` } : {} });
  socket.onmessage = ({ data }) => {
    const { type, payload } = JSON.parse(data);
    if (type === 'connection_ack') say({ id: '1', type: 'subscribe', payload: request });
    else if (type === 'ping') say({ type: 'pong' });
    else if (over) return;
    else if (type === 'next') heard.next(payload);
    else if (type === 'complete') end('complete', false);
    else if (type === 'error') {
      heard.next({ errors: payload });
      end('refused', true);
    }
  };
  socket.onclose = ({ code, reason }) =>
    end(`the connection ended (${code}${reason ? `: ${reason}` : ''}); run it again`, true, code);
  return () => end('stopped', false);
}
