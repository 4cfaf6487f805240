// The server's own API. Addresses are relative to the page's, so that it works below any path.

const TOKEN = "latentrt.token";

/** An answer that is no success: a sentence, the field it is about (or null), and the status. */
export class ApiError extends Error {
  constructor(message, { field = null, status = 0 } = {}) {
    super(message);
    this.field = field;
    this.status = status;
  }
}

let askForToken = async () => null;

/** Who is asked for the token when the server wants one: called with whether the last one was wrong. */
export function whenTokenIsAsked(ask) {
  askForToken = ask;
}

let asking = null;

async function newToken(wrong) {
  asking ??= askForToken(wrong).finally(() => (asking = null));
  const token = await asking;
  if (token) sessionStorage.setItem(TOKEN, token);
  return Boolean(token);
}

function headersWith(more) {
  const token = sessionStorage.getItem(TOKEN);
  const all = { ...more, "X-Requested-With": "latentrt" }; // the server then leaves asking for the token to the page
  return token ? { ...all, Authorization: `Bearer ${token}` } : all;
}

async function ask(path, { method = "GET", body, headers = {}, signal } = {}) {
  for (;;) {
    const sent = sessionStorage.getItem(TOKEN);
    let answer;
    try {
      answer = await fetch(new URL(path, document.baseURI), { method, body, signal, headers: headersWith(headers) });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError("The server cannot be reached. Look whether it runs, then try again.");
    }
    if (answer.status === 401) {
      // Another answer may have brought a token in the meantime
      if (sessionStorage.getItem(TOKEN) !== sent || (await newToken(Boolean(sent)))) continue;
      throw new ApiError("The server wants its token. Load the page again to type it.", { status: 401 });
    }
    if (!answer.ok) throw await errorOf(answer);
    return answer;
  }
}

async function errorOf(answer) {
  let error = {};
  try {
    const json = await answer.json();
    error = typeof json.error === "object" && json.error !== null ? json.error : { message: json.detail ?? json.error };
  } catch {
    // Not JSON: something between here and the server answered
  }
  let message = typeof error.message === "string" ? error.message : `The server answered ${answer.status}.`;
  const wait = answer.headers.get("Retry-After");
  if (wait && !/try again|retry/i.test(message)) message += ` Try again in ${wait} s.`;
  return new ApiError(sentence(message), { field: error.param ?? null, status: answer.status });
}

/** With a capital and a full stop. */
export function sentence(text) {
  const trimmed = text.trim();
  return trimmed.charAt(0).toUpperCase() + trimmed.slice(1) + (/[.!?]$/.test(trimmed) ? "" : ".");
}

/** 128 random bits in hexadecimal. */
function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export const options = async () => (await ask("v1/options")).json();

/** Sends an order; asked twice where the first answer is lost, drawn once. */
export async function submit(order) {
  const request = {
    method: "POST",
    body: JSON.stringify(order),
    headers: { "Content-Type": "application/json", "Idempotency-Key": randomKey() },
  };
  try {
    return await (await ask("v1/jobs", request)).json();
  } catch (error) {
    if (error.status !== 0) throw error;
    return (await ask("v1/jobs", request)).json();
  }
}

export const job = async (id) => (await ask(`v1/jobs/${encodeURIComponent(id)}`)).json();

/** All jobs that the server remembers. */
export const jobs = async () => (await (await ask("v1/jobs")).json()).jobs;

export const cancel = (id) => ask(`v1/jobs/${encodeURIComponent(id)}`, { method: "DELETE" });

/** A finished picture as PNG, with its settings inside. */
export const picture = async (id, index) =>
  (await ask(`v1/jobs/${encodeURIComponent(id)}/pictures/${index}?format=png`)).blob();

/** The events of a job as [name, data], until the server ends them. EventSource could send no token. */
export async function* events(id, signal) {
  const answer = await ask(`v1/jobs/${encodeURIComponent(id)}/events`, {
    headers: { Accept: "text/event-stream" },
    signal,
  });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text = (text + value).replaceAll("\r\n", "\n");
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const event = eventOf(block);
      if (event) yield event;
    }
  }
}

function eventOf(block) {
  let name = "message";
  const data = [];
  for (const line of block.split("\n")) {
    const [, field, value] = /^([^:]*):? ?(.*)$/.exec(line);
    if (field === "event") name = value;
    else if (field === "data") data.push(value);
  }
  return data.length ? [name, JSON.parse(data.join("\n"))] : null;
}
