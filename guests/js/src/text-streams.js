// `TextDecoderStream` and `TextEncoderStream`, which the engine lacks.

import { getOwnPropertyDescriptor, SafeString, string, uncurry } from './intrinsics.js';
import { install } from './web-idl.js';

const { TextDecoder, TextEncoder, TransformStream, Uint8Array } = globalThis;
const decode = uncurry(TextDecoder.prototype.decode);
const encode = uncurry(TextEncoder.prototype.encode);
const getter = (Class, name) => uncurry(getOwnPropertyDescriptor(Class.prototype, name).get);
const readableOf = getter(TransformStream, 'readable');
const writableOf = getter(TransformStream, 'writable');
const encodingOf = getter(TextDecoder, 'encoding');
const fatalOf = getter(TextDecoder, 'fatal');
const ignoresBom = getter(TextDecoder, 'ignoreBOM');

class TextDecoderStream {
  #decoder;
  #transform;

  constructor(label = 'utf-8', options = undefined) {
    const decoder = new TextDecoder(label, options);
    this.#decoder = decoder;
    this.#transform = new TransformStream({
      transform(chunk, controller) {
        const text = decode(decoder, chunk, { stream: true });
        if (text !== '') controller.enqueue(text);
      },
      flush(controller) {
        const text = decode(decoder, new Uint8Array(0));
        if (text !== '') controller.enqueue(text);
      },
    });
  }

  get encoding() {
    return encodingOf(this.#decoder);
  }
  get fatal() {
    return fatalOf(this.#decoder);
  }
  get ignoreBOM() {
    return ignoresBom(this.#decoder);
  }
  get readable() {
    return readableOf(this.#transform);
  }
  get writable() {
    return writableOf(this.#transform);
  }
}

class TextEncoderStream {
  #transform;

  constructor() {
    const encoder = new TextEncoder();
    // A chunk may end between the halves of a surrogate pair.
    let half = '';
    this.#transform = new TransformStream({
      transform(chunk, controller) {
        let text = half + SafeString(chunk);
        const last = text === '' ? 0 : string.charCodeAt(text, text.length - 1);
        half = last >= 0xd800 && last <= 0xdbff ? text[text.length - 1] : '';
        if (half !== '') text = string.slice(text, 0, -1);
        if (text !== '') controller.enqueue(encode(encoder, text));
      },
      flush(controller) {
        if (half !== '') controller.enqueue(encode(encoder, half));
      },
    });
  }

  get encoding() {
    this.#transform;
    return 'utf-8';
  }
  get readable() {
    return readableOf(this.#transform);
  }
  get writable() {
    return writableOf(this.#transform);
  }
}

export function installTextStreams(global) {
  install(global, TextDecoderStream, ['encoding', 'fatal', 'ignoreBOM', 'readable', 'writable']);
  install(global, TextEncoderStream, ['encoding', 'readable', 'writable']);
}
