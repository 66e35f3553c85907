'use strict';
// Timers, from the HTML standard.

const cases = {};
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Runs steps that log, and returns the log after `wait` milliseconds. */
async function logged(action, wait = 30) {
  const log = [];
  action((entry) => () => log.push(entry), log);
  await sleep(wait);
  return log;
}

cases['equal delays keep their order'] = async () => {
  same(
    await logged((log) => {
      for (const name of ['a', 'b', 'c', 'd']) setTimeout(log(name), 2);
    }),
    ['a', 'b', 'c', 'd'],
  );
};
cases['shorter delays come first'] = async () => {
  same(
    await logged((log) => {
      setTimeout(log('c'), 12);
      setTimeout(log('a'), 0);
      setTimeout(log('b'), 6);
    }),
    ['a', 'b', 'c'],
  );
};
cases['microtasks come before timers, and between them'] = async () => {
  const log = [];
  setTimeout(() => {
    log.push('t1');
    queueMicrotask(() => log.push('m1'));
    Promise.resolve().then(() => log.push('p1'));
  });
  setTimeout(() => log.push('t2'));
  queueMicrotask(() => log.push('m0'));
  log.push('now');
  await sleep(10);
  same(log, ['now', 'm0', 't1', 'm1', 'p1', 't2']);
};
cases['arguments are handed over'] = async () => {
  const log = [];
  setTimeout((...args) => log.push(args), 0, 1, 'b', { c: 3 });
  const id = setInterval(
    (x) => {
      log.push(x);
      clearInterval(id);
    },
    0,
    'again',
  );
  await sleep(10);
  same(log, [[1, 'b', { c: 3 }], 'again']);
};
for (const delay of [
  undefined,
  null,
  -5,
  NaN,
  'x',
  '3',
  0.9,
  Infinity,
  2 ** 31,
  -(2 ** 40),
  {},
  [],
]) {
  cases[`the delay ${String(delay)} is a short one`] = async () => {
    await new Promise((resolve) => setTimeout(resolve, delay));
  };
}
cases['a delay is never shorter than asked'] = async () => {
  const start = performance.now();
  await sleep(20);
  same(performance.now() - start >= 20, true);
};
cases['nested timers wait four milliseconds from the sixth on'] = async () => {
  const times = [];
  await new Promise((resolve) => {
    const step = () => {
      times.push(performance.now());
      if (times.length < 9) setTimeout(step, 0);
      else resolve();
    };
    setTimeout(step, 0);
  });
  for (let i = 6; i < 9; i++)
    same(times[i] - times[i - 1] >= 4, true, `${times[i] - times[i - 1]} ms: `);
};
cases['an interval repeats until it is cleared'] = async () => {
  let count = 0;
  await new Promise((resolve) => {
    const id = setInterval(() => {
      if (++count === 3) {
        clearInterval(id);
        resolve();
      }
    }, 1);
  });
  await sleep(10);
  same(count, 3);
};
cases['cleared timers do not run'] = async () => {
  same(
    await logged((log) => {
      clearTimeout(setTimeout(log('a'), 1));
      clearInterval(setTimeout(log('b'), 1));
      clearTimeout(setInterval(log('c'), 1));
      const later = setTimeout(log('d'), 3);
      setTimeout(() => clearTimeout(later), 0);
      setTimeout(log('kept'), 1);
    }),
    ['kept'],
  );
};
cases['clearing what is not there does nothing'] = () => {
  for (const id of [undefined, null, 0, -1, 10 ** 9, 'x', NaN, {}]) {
    clearTimeout(id);
    clearInterval(id);
  }
  clearTimeout();
};
cases['numbers are positive and different'] = () => {
  const ids = [setTimeout(() => {}), setTimeout(() => {}), setInterval(() => {}, 1000)];
  same(ids.every((id) => Number.isInteger(id) && id > 0) && new Set(ids).size === 3, true);
  ids.forEach(clearTimeout);
};
for (const callback of [undefined, null, 1, 'text()', {}]) {
  cases[`the callback ${String(callback)} is refused`] = () => {
    throws(TypeError, () => setTimeout(callback, 1), 'setTimeout: the callback must be a function');
    throws(
      TypeError,
      () => setInterval(callback, 1),
      'setInterval: the callback must be a function',
    );
    throws(
      TypeError,
      () => queueMicrotask(callback),
      'queueMicrotask: the callback must be a function',
    );
  };
}
cases['in one loop with fetch'] = async (url) => {
  const log = [];
  setTimeout(() => log.push('early'), 0);
  await Promise.all([
    sleep(15).then(() => log.push('late')),
    Promise.resolve().then(() => log.push('first')),
  ]);
  same(log, ['first', 'early', 'late']);
};
