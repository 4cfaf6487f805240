// What the form and the easel say, as the body of a request.

/** The body of an order. `values` are the form's, `source` and `mask` the easel's; without an image the source is null. */
export async function orderFrom(values, source, mask) {
  const { prompt, negative_prompt, prompt_syntax, model, width, height, sampler, loras, hires, seed } = values;
  const count = values.num_images_per_prompt;
  const order = { model, prompt, width, height, sampler };
  if (negative_prompt) order.negative_prompt = negative_prompt;
  if (prompt_syntax !== "plain") order.prompt_syntax = prompt_syntax;
  for (const name of ["num_inference_steps", "guidance_scale"]) set(order, name, values[name]);
  set(order, "num_images_per_prompt", count);
  // A seed for each picture, so that each can be drawn again alone
  order.seed = count > 1 ? Array.from({ length: Math.min(count, 1000) }, (_, index) => seed + index) : seed;
  if (values.wildcards) order.wildcards = true;
  if (Object.keys(loras).length) order.loras = loras;
  if (hires && !source) {
    order.hires = { scale: hires.scale, upscaler: hires.upscaler };
    set(order.hires, "strength", hires.strength);
    if (hires.steps !== null) set(order.hires, "steps", hires.steps);
  }
  if (!source) return order;
  const cropped = values.padding_mask_crop !== null && !mask.empty;
  set(order, "strength", values.strength);
  if (!mask.empty && values.masked_content !== "original") order.masked_content = values.masked_content;
  if (cropped) set(order, "padding_mask_crop", values.padding_mask_crop);
  return { ...order, ...(await source.sent(mask, cropped ? null : { width, height })) };
}

// A field that was emptied is left to the server
function set(order, name, value) {
  if (!Number.isNaN(value)) order[name] = value;
}
