import {loadClassifier, softmax} from './model.js';
import {clear, draw, shrink, watch} from './paper.js';

const byId = (id) => document.getElementById(id);
const best = (numbers) => numbers.indexOf(Math.max(...numbers));

function paint(canvas, pixels) {
  const context = canvas.getContext('2d');
  const image = context.createImageData(8, 8);
  pixels.forEach((ink, i) => image.data.set([255 - ink, 255 - ink, 255 - ink, 255], 4 * i));
  context.putImageData(image, 0, 0);
}

function show(pixels, logits) {
  paint(byId('seen'), pixels);
  byId('seen').dataset.pixels = pixels.join(' ');
  byId('classes').dataset.logits = logits.join(' ');
  const answer = best(logits);
  softmax(logits).forEach((probability, digit) => {
    const [, bar, number] = byId('classes').children[digit].children;
    byId('classes').children[digit].className = digit === answer ? 'best' : '';
    bar.style.width = `${100 * probability}%`;
    number.textContent = `${(100 * probability).toFixed(1)} %`;
  });
  byId('status').textContent = `This is a ${answer}.`;
}

function makeBars() {
  for (let digit = 0; digit < 10; ++digit) {
    const row = document.createElement('li');
    row.innerHTML = `<span>${digit}</span><div class="bar" style="width:0"></div><span class="number"></span>`;
    byId('classes').append(row);
  }
}

async function showSamples(classify) {
  const text = await (await fetch('../digits.csv')).text();
  for (const line of text.trim().split('\n')) {
    const [label, ...pixels] = line.split(',').map(Number);
    const logits = await classify(pixels);
    const item = document.createElement('li');
    const canvas = Object.assign(document.createElement('canvas'), {width: 8, height: 8});
    paint(canvas, pixels);
    canvas.onclick = () => show(pixels, logits);
    item.append(canvas, String(best(logits)));
    item.className = best(logits) === label ? 'right' : 'wrong';
    item.dataset.logits = logits.join(' ');
    byId('samples').append(item);
  }
}

async function main() {
  makeBars();
  const classify = await loadClassifier('../digits.tflite');
  await showSamples(classify);
  const paper = byId('paper');
  const answer = async () => {
    const pixels = shrink(paper);
    if (pixels) show(pixels, await classify(pixels));
  };
  draw(paper);
  watch(paper, answer);
  byId('clear').onclick = () => {
    clear(paper);
    byId('status').textContent = 'Draw a digit.';
  };
  byId('status').textContent = 'Draw a digit.';
}

main().catch((error) => {
  byId('status').textContent = `This does not work here: ${error.message ?? error}`;
  console.error(error);
});
