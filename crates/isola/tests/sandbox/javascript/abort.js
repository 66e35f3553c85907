'use strict';
// AbortController and AbortSignal, from the DOM standard.

const cases = {};

cases['a new controller'] = () => {
  const { signal } = new AbortController();
  same([signal.aborted, signal.reason, signal.onabort], [false, undefined, null]);
  signal.throwIfAborted();
};
cases['abort without a reason'] = () => {
  const controller = new AbortController();
  controller.abort();
  const { reason } = controller.signal;
  same(
    [controller.signal.aborted, reason instanceof DOMException, reason.name],
    [true, true, 'AbortError'],
  );
};
cases['abort with a reason'] = () => {
  const controller = new AbortController();
  controller.abort('stop');
  same(controller.signal.reason, 'stop');
  controller.abort('again');
  same(controller.signal.reason, 'stop');
  let thrown;
  try {
    controller.signal.throwIfAborted();
  } catch (error) {
    thrown = error;
  }
  same(thrown, 'stop');
};
cases['the event comes once, in order'] = () => {
  const controller = new AbortController();
  const seen = [];
  controller.signal.onabort = (event) => seen.push(`on ${event.type}`);
  controller.signal.addEventListener('abort', (event) =>
    seen.push(`listener ${event.target === controller.signal}`),
  );
  controller.abort();
  controller.abort();
  same(seen, ['listener true', 'on abort']);
};
cases['a removed listener is not told'] = () => {
  const controller = new AbortController();
  const listener = () => {
    throw new Error('told');
  };
  controller.signal.addEventListener('abort', listener);
  controller.signal.removeEventListener('abort', listener);
  controller.abort();
};
cases['AbortSignal.abort'] = () => {
  same(
    [AbortSignal.abort().aborted, AbortSignal.abort('why').reason, AbortSignal.abort().reason.name],
    [true, 'why', 'AbortError'],
  );
};
cases['AbortSignal.timeout'] = async () => {
  const signal = AbortSignal.timeout(1);
  same(signal.aborted, false);
  await new Promise((resolve) => signal.addEventListener('abort', resolve));
  same(
    [signal.aborted, signal.reason.name, signal.reason instanceof DOMException],
    [true, 'TimeoutError', true],
  );
  for (const wrong of [-1, NaN, 'x', undefined, Infinity])
    throws(TypeError, () => AbortSignal.timeout(wrong));
};
cases['AbortSignal.any'] = () => {
  const first = new AbortController();
  const second = new AbortController();
  const any = AbortSignal.any([first.signal, second.signal]);
  same(any.aborted, false);
  second.abort('why');
  first.abort('too late');
  same([any.aborted, any.reason], [true, 'why']);
  same(AbortSignal.any([AbortSignal.abort(1), AbortSignal.abort(2)]).reason, 1);
  same(AbortSignal.any([]).aborted, false);
  throws(TypeError, () => AbortSignal.any([{}]));
  throws(TypeError, () => AbortSignal.any());
};
cases['the sample of the document'] = async () => {
  const controller = new AbortController();
  controller.abort('stop');
  await rejects(
    'AbortError',
    () => fetch('https://example.test/never', { signal: controller.signal }),
    'stop',
  );
};
cases['an AbortError is passed on as it is'] = async () => {
  const controller = new AbortController();
  controller.abort();
  let thrown;
  try {
    await fetch('https://example.test/', { signal: controller.signal });
  } catch (error) {
    thrown = error;
  }
  same(thrown === controller.signal.reason, true);
};
cases['another reason is the cause'] = async () => {
  const reason = new RangeError('own');
  let thrown;
  try {
    await fetch('https://example.test/', { signal: AbortSignal.abort(reason) });
  } catch (error) {
    thrown = error;
  }
  same([thrown.name, thrown.cause === reason, thrown.message], ['AbortError', true, 'own']);
};
cases['reasons of every kind'] = async () => {
  for (const reason of [null, 0, '', Symbol('s'), {}, Object.create(null)]) {
    await rejects('AbortError', () =>
      fetch('https://example.test/', { signal: AbortSignal.abort(reason) }),
    );
  }
};
cases['the signal of a Request counts'] = async () => {
  const request = new Request('https://example.test/', { signal: AbortSignal.abort() });
  same(request.signal.aborted, true);
  await rejects('AbortError', () => fetch(request));
  // An option comes before the request's own.
  await rejects(TypeError, () => fetch(request, { signal: null }), 'not allowed');
};
cases['a signal has no constructor'] = () => throws(TypeError, () => new AbortSignal());
cases['a listener that throws does not stop the others'] = () => {
  const target = new EventTarget();
  const seen = [];
  target.addEventListener('x', {
    handleEvent: (event) => seen.push(event.currentTarget === target),
  });
  target.addEventListener('x', (event) => {
    seen.push('last');
    event.stopImmediatePropagation();
  });
  target.addEventListener('x', () => seen.push('never'));
  same(target.dispatchEvent(new Event('x')), true);
  same(seen, [true, 'last']);
  throws(TypeError, () => target.dispatchEvent({}));
  throws(TypeError, () => target.addEventListener('x', 1));
};
cases['an event can be prevented, and carry a detail'] = () => {
  const target = new (class extends EventTarget {})();
  target.addEventListener('x', (event) => event.preventDefault());
  same(target.dispatchEvent(new Event('x', { cancelable: true })), false);
  same(target.dispatchEvent(new Event('x')), true);
  same(new CustomEvent('y', { detail: 7 }).detail, 7);
  throws(TypeError, () => new Event());
};
cases['a signal removes listeners'] = () => {
  const target = new EventTarget();
  const controller = new AbortController();
  const seen = [];
  target.addEventListener('x', () => seen.push(1), { signal: controller.signal });
  target.dispatchEvent(new Event('x'));
  controller.abort();
  target.dispatchEvent(new Event('x'));
  target.addEventListener('x', () => seen.push(2), { signal: controller.signal });
  target.dispatchEvent(new Event('x'));
  same(seen, [1]);
};
cases["an EventTarget of one's own"] = () => {
  const target = new EventTarget();
  const seen = [];
  target.addEventListener('x', (event) => seen.push(event.type), { once: true });
  target.dispatchEvent(new Event('x'));
  target.dispatchEvent(new Event('x'));
  same(seen, ['x']);
};
