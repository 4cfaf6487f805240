// The text that AUTOMATIC1111 and its like write into pictures: prompt, negative prompt, and a line of pairs.

const NEGATIVE = "Negative prompt: ";
// Where AUTOMATIC1111 calls a sampler otherwise than the server does
const LABELS = { "Euler a": "Euler Ancestral", PLMS: "PNDM", DPM2: "KDPM 2", "DPM2 a": "KDPM 2 Ancestral" };

/** {prompt, negativePrompt, pairs}: the pairs in their order, as a Map; null where the text is none of that kind. */
export function parsed(text) {
  const lines = text.trim().split("\n");
  const last = lines.findLastIndex((line) => /^\s*Steps: \d/.test(line));
  if (last < 0) return null;
  const begin = lines.findIndex((line) => line.startsWith(NEGATIVE));
  const negative = begin >= 0 && begin < last ? lines.slice(begin, last).join("\n").slice(NEGATIVE.length) : "";
  const pairs = new Map();
  const pattern = /\s*([\w][\w \-/+]*?):\s*("(?:\\.|[^"\\])*"|[^,]*)(?:,|$)/g;
  for (const [, key, value] of lines.slice(last).join("\n").matchAll(pattern)) pairs.set(key, unquoted(value.trim()));
  return { prompt: lines.slice(0, negative || begin >= 0 ? Math.min(begin, last) : last).join("\n"), negativePrompt: negative, pairs };
}

function unquoted(value) {
  if (!value.startsWith('"')) return value;
  try {
    return JSON.parse(value);
  } catch {
    return value;
  }
}

/** What the form is filled with; what the text does not say, or this server does not have, is left out. */
export function valuesFrom({ prompt, negativePrompt, pairs }, served) {
  const values = { negative_prompt: negativePrompt };
  const number = (key) => (pairs.has(key) && Number.isFinite(Number(pairs.get(key))) ? Number(pairs.get(key)) : undefined);
  const set = (name, value) => value !== undefined && (values[name] = value);
  const loras = {};
  values.prompt = prompt.replace(/ ?<lora:([^:>]+)(?::(-?[\d.]+))?>/g, (tag, name, weight) => {
    if (!served.loras.includes(name)) return tag;
    loras[name] = weight === undefined ? 1 : Number(weight);
    return "";
  });
  values.loras = loras;
  set("num_inference_steps", number("Steps"));
  set("guidance_scale", number("CFG scale"));
  set("seed", number("Seed"));
  set("sampler", samplerOf(pairs, served.samplers));
  const [, width, height] = /^(\d+)x(\d+)$/.exec(pairs.get("Size") ?? "") ?? [];
  set("width", width && Number(width));
  set("height", height && Number(height));
  set("model", served.models.find(({ name }) => name === pairs.get("Model"))?.name);
  values.num_images_per_prompt = 1;
  values.prompt_syntax = syntaxOf(pairs, `${values.prompt}${negativePrompt}`);
  if (pairs.has("Hires upscale")) {
    const upscaler = pairs.get("Hires upscaler") ?? "latent";
    values.hires = {
      scale: number("Hires upscale"),
      strength: number("Denoising strength") ?? 0.55,
      steps: number("Hires steps") ?? null,
      upscaler: served.upscalers.find((name) => name === upscaler.toLowerCase().replace(/[ ()]+/g, "-").replace(/-$/, "")) ?? upscaler,
    };
  } else {
    values.hires = null;
    set("strength", number("Denoising strength"));
    set("masked_content", pairs.get("Masked content")?.replace("latent ", ""));
  }
  return values;
}

function samplerOf(pairs, samplers) {
  const given = pairs.get("Sampler");
  const label = LABELS[given] ?? given;
  const wanted = [`${label} ${pairs.get("Schedule type")}`, label];
  return wanted.map((text) => samplers.find((one) => one.label === text)).find(Boolean)?.name;
}

function syntaxOf(pairs, prompts) {
  const named = pairs.get("Prompt syntax");
  if (named) return named;
  return pairs.get("Emphasis") !== "None" && /[()[\]]/.test(prompts) ? "a1111" : "plain";
}
