// Drawing, and what becomes of it: pixels as those of the training data were made.
const INK = '#000';
const PAPER = '#fff';

export function clear(canvas) {
  const context = canvas.getContext('2d', {willReadFrequently: true});
  context.fillStyle = PAPER;
  context.fillRect(0, 0, canvas.width, canvas.height);
}

export function draw(canvas) {
  clear(canvas);
  const context = canvas.getContext('2d');
  Object.assign(context, {lineWidth: 22, lineCap: 'round', lineJoin: 'round', strokeStyle: INK});
  canvas.addEventListener('pointerdown', (event) => {
    canvas.setPointerCapture(event.pointerId);
    context.beginPath();
    context.moveTo(event.offsetX, event.offsetY);
    context.lineTo(event.offsetX, event.offsetY);
    context.stroke();
  });
  const drawTo = (event) => {
    context.lineTo(event.offsetX, event.offsetY);
    context.stroke();
  };
  canvas.addEventListener('pointermove', (event) => event.buttons && drawTo(event));
  canvas.addEventListener('pointerup', drawTo);
}

export function watch(canvas, drawn) {
  canvas.addEventListener('pointerup', drawn);
}

// The digits of the training data fill 32x32 dots; a pixel counts the dots with ink in its 4x4.
// Returns 64 numbers from 0 to 255, or null if nothing was drawn.
export function shrink(canvas) {
  const box = inkBox(canvas);
  if (!box) return null;
  const dots = Object.assign(document.createElement('canvas'), {width: 32, height: 32});
  const context = dots.getContext('2d', {willReadFrequently: true});
  clear(dots);
  const scale = 32 / Math.max(box.width, box.height);
  const [width, height] = [box.width * scale, box.height * scale];
  context.drawImage(canvas, box.left, box.top, box.width, box.height,
                    (32 - width) / 2, (32 - height) / 2, width, height);
  const {data} = context.getImageData(0, 0, 32, 32);
  const pixels = new Array(64).fill(0);
  for (let y = 0; y < 32; ++y) {
    for (let x = 0; x < 32; ++x) {
      if (data[4 * (32 * y + x)] < 128) pixels[8 * (y >> 2) + (x >> 2)] += 1;
    }
  }
  return pixels.map((count) => Math.round((255 * count) / 16));
}

function inkBox(canvas) {
  const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  let [left, top, right, bottom] = [canvas.width, canvas.height, -1, -1];
  for (let y = 0; y < canvas.height; ++y) {
    for (let x = 0; x < canvas.width; ++x) {
      if (data[4 * (canvas.width * y + x)] >= 128) continue;
      [left, right] = [Math.min(left, x), Math.max(right, x)];
      [top, bottom] = [Math.min(top, y), Math.max(bottom, y)];
    }
  }
  return right < 0 ? null : {left, top, width: right - left + 1, height: bottom - top + 1};
}
