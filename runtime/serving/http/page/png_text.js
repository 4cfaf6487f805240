// The settings inside a PNG: its text chunk `parameters`.

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const KEYWORD = "parameters";

/** The text of the chunk `parameters` (tEXt, zTXt or iTXt); null where the file is no PNG or has none. */
export async function parametersOf(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  if (!SIGNATURE.every((value, index) => bytes[index] === value)) return null;
  const view = new DataView(bytes.buffer);
  for (let at = 8; at + 12 <= bytes.length; ) {
    const length = view.getUint32(at);
    const type = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    const data = bytes.subarray(at + 8, at + 8 + length);
    if (type === "IEND" || data.length < length) return null;
    const text = await textOf(type, data);
    if (text !== null) return text;
    at += length + 12;
  }
  return null;
}

async function textOf(type, data) {
  if (!["tEXt", "zTXt", "iTXt"].includes(type)) return null;
  const end = data.indexOf(0);
  if (end < 0 || latin1(data.subarray(0, end)) !== KEYWORD) return null;
  if (type === "tEXt") return latin1(data.subarray(end + 1));
  if (type === "zTXt") return latin1(await inflated(data.subarray(end + 2)));
  const language = data.indexOf(0, end + 3);
  const translated = data.indexOf(0, language + 1);
  const text = data.subarray(translated + 1);
  return new TextDecoder().decode(data[end + 1] ? await inflated(text) : text);
}

const latin1 = (bytes) => Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");

async function inflated(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
