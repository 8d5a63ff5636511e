// The file and its ten logits. Nothing here knows about the page.
import {loadAndCompile, loadLiteRt, Tensor} from '@litertjs/core';

export async function loadClassifier(url) {
  await loadLiteRt(new URL('../wasm/', import.meta.resolve('@litertjs/core')).href);
  const model = await loadAndCompile(url, {accelerator: 'wasm'});
  // LiteRT.js runs one input at a time; a call waits for the one before it.
  let last = Promise.resolve();
  return (pixels) => (last = last.catch(() => {}).then(() => run(model, pixels)));
}

// Pixels: 64 numbers from 0 (paper) to 255 (ink). Returns ten logits.
async function run(model, pixels) {
  const input = new Tensor(Float32Array.from(pixels), [1, 8, 8, 1]);
  const [output] = await model.run(input);
  const logits = Array.from(output.toTypedArray());
  input.delete();  // tensors live in WebAssembly's memory, out of reach of the garbage collector
  output.delete();
  return logits;
}

export function softmax(logits) {
  const largest = Math.max(...logits);
  const powers = logits.map((logit) => Math.exp(logit - largest));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / sum);
}
