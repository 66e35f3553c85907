// `Intl.Segmenter`, of formatjs: the rules of Unicode for graphemes, words and sentences.

export { Segmenter } from '@formatjs/intl-segmenter';
