/** Pictures of results. */

import assert from 'node:assert/strict';
import { inflateSync } from 'node:zlib';

const PNG_HEADER = Buffer.from('\x89PNG\r\n\x1a\n', 'latin1');
const BYTES_PER_PIXEL = 4;

/** A decoded picture: its colours are hexadecimal numbers such as `ff0000`. */
export interface Picture {
  width: number;
  height: number;
  colours: Set<string>;
}

/** Decodes a PNG with four bytes for each pixel. */
export function decodePng(base64: string): Picture {
  const data = Buffer.from(base64, 'base64');
  assert.equal(data.toString('base64'), base64, 'the picture is not base64');
  assert.ok(data.subarray(0, PNG_HEADER.length).equals(PNG_HEADER), 'the picture is not a PNG');
  let [width, height] = [0, 0];
  const packed: Buffer[] = [];
  for (let at = PNG_HEADER.length; at < data.length;) {
    const length = data.readUInt32BE(at);
    const kind = data.toString('latin1', at + 4, at + 8);
    const body = data.subarray(at + 8, at + 8 + length);
    if (kind === 'IHDR') {
      [width, height] = [body.readUInt32BE(0), body.readUInt32BE(4)];
      // Eight bits for each of red, green, blue and alpha.
      assert.deepEqual([body[8], body[9]], [8, 6]);
    } else if (kind === 'IDAT') {
      packed.push(body);
    }
    at += 12 + length;
  }
  const rows = unfilter(inflateSync(Buffer.concat(packed)), width * BYTES_PER_PIXEL, height);
  const colours = new Set<string>();
  for (let at = 0; at < rows.length; at += BYTES_PER_PIXEL) {
    colours.add(rows.toString('hex', at, at + 3));
  }
  return { width, height, colours };
}

/** Reverses the filter of each row, which its first byte names. */
function unfilter(raw: Buffer, stride: number, height: number): Buffer {
  const rows = Buffer.alloc(stride * height);
  const at = (row: number, column: number): number =>
    row < 0 || column < 0 ? 0 : (rows[row * stride + column] ?? 0);
  for (let row = 0; row < height; row++) {
    const start = row * (stride + 1);
    const filter = raw[start] ?? 0;
    for (let column = 0; column < stride; column++) {
      const left = at(row, column - BYTES_PER_PIXEL);
      const up = at(row - 1, column);
      const corner = column < BYTES_PER_PIXEL ? 0 : at(row - 1, column - BYTES_PER_PIXEL);
      const guess = [0, left, up, (left + up) >> 1, paeth(left, up, corner)][filter] ?? 0;
      rows[row * stride + column] = ((raw[start + 1 + column] ?? 0) + guess) & 255;
    }
  }
  return rows;
}

/** Returns the neighbour that is closest to their linear combination; the first one if equal. */
function paeth(left: number, up: number, corner: number): number {
  const estimate = left + up - corner;
  let best = left;
  for (const value of [up, corner]) {
    if (Math.abs(estimate - value) < Math.abs(estimate - best)) best = value;
  }
  return best;
}
