// Asks the endpoint: one answer over HTTP, many over a WebSocket (graphql-transport-ws). Tokens are kept in memory.

const ENDPOINT = new URL('graphql', document.baseURI);
const SESSION = 'accessToken refreshToken expiresAt userErrors { code message }';
const LOGIN = `mutation ConsoleLogin($input: LoginInput!) { session: login(input: $input) { ${SESSION} } }`;
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

  get isSignedIn() {
    return this.#token !== null;
  }

  async signIn(email, password) {
    await this.#exchange(LOGIN, { email, password });
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
  async ask(request, headers = {}, signal = undefined) {
    const first = await send(request, headers, await this.token(), signal);
    if (first.status !== 401 || !this.#refresh) return first;
    await this.#renew();
    return send(request, headers, this.#token, signal);
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
    if (!session?.accessToken) {
      const [wrong] = [...(session?.userErrors ?? []), ...(json?.errors ?? [])];
      if (query === REFRESH) this.signOut();
      throw new Error(wrong?.message ?? 'The server does not answer.');
    }
    [this.#token, this.#refresh] = [session.accessToken, session.refreshToken];
    this.#ends = session.expiresAt ? Date.parse(session.expiresAt) : Infinity;
  }
}

async function send(request, headers, token, signal) {
  const began = performance.now();
  const all = new Headers({
    'content-type': 'application/json',
    accept: 'application/graphql-response+json, application/json;q=0.9',
    ...(token ? { authorization: `Bearer ${token}` } : {}),
  });
  for (const [name, value] of Object.entries(headers)) all.set(name, value);
  const response = await fetch(ENDPOINT, { method: 'POST', headers: all, body: JSON.stringify(request), signal });
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
