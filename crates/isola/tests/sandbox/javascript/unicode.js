'use strict';
// Regular expressions with Unicode properties, normalization, and Intl, in the engine.

const cases = {};

cases['literals have properties'] = () => {
  same(/^\p{L}+$/u.test('héllo'), true);
  same(/\P{ASCII}/u.exec('aé')[0], 'é');
  same('aéb1c'.split(/\p{N}/u), ['aéb', 'c']);
  same(
    [...'a1é2'.matchAll(/\p{L}/gu)].map(([letter]) => letter),
    ['a', 'é'],
  );
  same(/^(\p{Extended_Pictographic}|\p{Emoji_Component})+$/u.test('😀👍🏽'), true);
  same(/^\p{RGI_Emoji}$/v.test('👨‍👩‍👧'), true);
  same(/[\p{L}--[a-z]]/v.test('a'), false);
};

cases['source is what was written'] = () => {
  same(/^\p{L}+$/u.source, '^\\p{L}+$');
  same(String(/\p{Lu}/u), '/\\p{Lu}/u');
  same(new RegExp('\\p{L}/', 'gu').source, '\\p{L}\\/');
  same(new RegExp('[\\p{P}$]', 'u').test('-'), true);
  same(new RegExp('[\\P{L}--\\p{N}]', 'v').test('1'), false);
  same(new RegExp(/\p{L}/u, 'g').test('p{L}'), true);
};

cases['the constructor keeps its identity'] = () => {
  same(/a/.constructor === RegExp && RegExp.prototype.constructor === RegExp, true);
  same(/a/ instanceof RegExp && new RegExp('\\p{L}', 'u') instanceof RegExp, true);
  same([RegExp.name, RegExp.length], ['RegExp', 2]);
  const plain = /x/;
  same(RegExp(plain) === plain, true);
  same(new RegExp(plain) === plain, false);
  'abc'.replace(/(b)/, '');
  same(RegExp.$1, 'b');
  class Mine extends RegExp {}
  const mine = new Mine('\\p{L}', 'gu');
  same([mine instanceof Mine, 'aé1'.replace(mine, 'x')], [true, 'xx1']);
};

cases['a property that does not exist is an error'] = () => {
  throws(SyntaxError, () => new RegExp('\\p{Foo}', 'u'));
  throws(SyntaxError, () => new RegExp('[\\p{L}-z]', 'u'));
  same(new RegExp('\\p{Foo}').source, '\\p{Foo}');
};

cases['case is ignored beyond ASCII'] = () => {
  same(/^k$/iu.test('\u212a'), true);
  same(new RegExp('^[a-z]$', 'iu').test('\u017f'), true);
  same(/^\u{10400}$/iu.test('\u{10428}'), true);
  same(/\W/iu.test('\u017f'), false);
  same(new RegExp('^[a-z_-]+$', 'iu').test('\u212a-_'), true);
};

cases['strings are normalized'] = () => {
  same('é'.normalize('NFD'), 'e\u0301');
  same('e\u0301'.normalize(), 'é');
  same('ﬁ①'.normalize('NFKC'), 'fi1');
  same('한'.normalize('NFD').normalize('NFC'), '한');
  throws(RangeError, () => 'a'.normalize('x'));
  throws(TypeError, () => String.prototype.normalize.call(null));
};

cases['strings are compared and converted by language'] = () => {
  same(
    ['b', 'B', 'a', 'ä', 'Z'].sort((a, b) => a.localeCompare(b)),
    ['a', 'ä', 'b', 'B', 'Z'],
  );
  same('a2'.localeCompare('a10', undefined, { numeric: true }), -1);
  same(['i'.toLocaleUpperCase('tr'), 'I'.toLocaleLowerCase('tr')], ['İ', 'ı']);
};

cases['Intl formats dates and numbers'] = () => {
  const date = new Date(1700000000000);
  const options = { timeZone: 'America/New_York', dateStyle: 'full', timeStyle: 'long' };
  same(
    new Intl.DateTimeFormat('en-US', options).format(date),
    'Tuesday, November 14, 2023 at 5:13:20\u202fPM EST',
  );
  same(date.toLocaleDateString('en-GB'), '14/11/2023');
  same((1234567.891).toLocaleString(), '1,234,567.891');
  same(new Intl.NumberFormat('en-US', { style: 'currency', currency: 'EUR' }).format(1.5), '€1.50');
  same(new Intl.PluralRules('en', { type: 'ordinal' }).select(22), 'two');
  same(Intl.DateTimeFormat().resolvedOptions().timeZone, 'UTC');
  throws(RangeError, () => new Intl.DateTimeFormat('en', { timeZone: 'No/Where' }));
};

cases['Intl splits and lists texts'] = () => {
  const graphemes = new Intl.Segmenter('en', { granularity: 'grapheme' });
  same(
    [...graphemes.segment('e\u0301👨‍👩‍👧x')].map(({ segment }) => segment),
    ['e\u0301', '👨‍👩‍👧', 'x'],
  );
  same(new Intl.ListFormat('en').format(['a', 'b', 'c']), 'a, b, and c');
  same(new Intl.RelativeTimeFormat('en', { numeric: 'auto' }).format(-1, 'day'), 'yesterday');
  same(new Intl.DisplayNames('en', { type: 'region' }).of('DE'), 'Germany');
};

cases['a language can be added'] = () => {
  const before = new Intl.NumberFormat('xx').resolvedOptions().locale;
  const numbers = { symbols: { decimal: ',', group: '.' } };
  Intl.addLocaleData({ locale: 'en-150', numbers });
  same(before, 'en-US');
  same((1234.5).toLocaleString('en-150'), '1.234,5');
};

cases['messages arrive'] = async () => {
  const { port1, port2 } = new MessageChannel();
  const received = new Promise((resolve) => (port2.onmessage = ({ data }) => resolve(data)));
  const sent = { list: [1] };
  port1.postMessage(sent);
  sent.list[0] = 2;
  same(await received, { list: [1] });
  throws(TypeError, () => new MessagePort());
};

cases['streams of text are decoded and encoded'] = async () => {
  const source = new ReadableStream({
    start(controller) {
      for (const part of ['a\ud83d', '\ude00ü']) controller.enqueue(part);
      controller.close();
    },
  });
  let text = '';
  const decoded = source.pipeThrough(new TextEncoderStream()).pipeThrough(new TextDecoderStream());
  for await (const part of decoded) text += part;
  same(text, 'a😀ü');
};
