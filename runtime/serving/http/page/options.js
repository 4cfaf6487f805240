// What the server offers, in the form that the page uses.

const LATENT_UPSCALERS = ["latent", "latent-antialiased", "latent-bicubic", "latent-bicubic-antialiased", "latent-nearest", "latent-nearest-exact"];
const PICTURE_UPSCALERS = ["lanczos", "bicubic", "nearest"];

const named = (items) => (items ?? []).map((item) => (typeof item === "string" ? item : item.name));

/** {models, samplers, loras, embeddings, upscalers} from the answer of /v1/options. */
export function served(options) {
  return {
    models: options.models.map((model) => ({ ...model, defaults: model.defaults ?? options.defaults ?? {} })),
    wildcards: options.wildcards ?? false,
    limits: options.limits ?? {},
    samplers: options.samplers.map(({ name, label }) => ({ name, label: label ?? name })),
    loras: named(options.loras),
    embeddings: named(options.embeddings),
    upscalers: [...new Set([...LATENT_UPSCALERS, ...PICTURE_UPSCALERS, ...named(options.upscalers)])],
  };
}

/** The larger sizes of a model that have the proportions of the one given, as {width, height, scale}. */
export function largerSizes(model, { width, height }) {
  const larger = model.sizes.filter((size) => size.width > width && size.width * height === size.height * width);
  return larger.map((size) => ({ ...size, scale: size.width / width }));
}
