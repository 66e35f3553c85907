// The guest side of the contract (`wit/isola.wit`). Everything here is set up
// while the component is built; a sandbox starts from the snapshot.

import { installAbort } from './abort.js';
import { callFunction } from './entry.js';
import { failure } from './failures.js';
import { installConsole } from './console.js';
import { installEnvironment, setEnvironment } from './environment.js';
import { installFetch } from './fetch.js';
import { installHostcall } from './hostcall.js';
import { installTimers } from './timers.js';
import { microtask, SafeNumber, whenSettled } from './intrinsics.js';
import * as loop from './loop.js';
import { runScript } from './scripts.js';
import { limitValues } from './values.js';

installHostcall(globalThis);
installTimers(globalThis);
installAbort();
installConsole(globalThis);
installEnvironment(globalThis);
installFetch(globalThis);

const ok = (val) => ({ tag: 'ok', val });
const err = (thrown) => ({ tag: 'err', val: failure(thrown) });

export const guest = {
  start({ env, maxValueSize }) {
    setEnvironment(env);
    limitValues(SafeNumber(maxValueSize));
    return ok(undefined);
  },

  load(source, name) {
    loop.begin();
    try {
      runScript(source, name);
      return ok(undefined);
    } catch (error) {
      return err(error);
    } finally {
      loop.end();
    }
  },

  call(name, args) {
    loop.begin();
    let json;
    try {
      json = callFunction(name, args);
    } catch (error) {
      loop.end();
      return err(error);
    }
    if (typeof json !== 'string') return settled(json);
    loop.end();
    return ok(json);
  },
};

/** What becomes of a call that is not done: never a rejection, which would abort the guest. */
function settled(promise) {
  // Not a promise but something with a `then` of its own, which no script can replace.
  return {
    then(answer) {
      let open = true;
      const close = (outcome) => {
        if (!open) return;
        open = false;
        loop.end();
        answer(outcome);
      };
      const fail = (error) => close(err(error));
      loop.onFailure(fail);
      whenSettled(promise, (json) => close(ok(json)), fail);
      // An async function that did not wait for anything is done by then.
      let rounds = 4;
      const later = () => {
        if (!open) return;
        if (--rounds > 0) microtask(later);
        else loop.wait();
      };
      later();
    },
  };
}

// A first run of everything while the component is built: the engine compiles
// built-in functions and regular expressions when they are first used.
warmUp();

function warmUp() {
  guest.load('const isolaWarm = 1;\nfunction isolaWarmUp(a, b) {\n  return { a, b };\n}\n', 'warm.js');
  guest.call('isolaWarmUp', [
    { name: undefined, value: '1' },
    { name: 'x', value: '[1.5, "a", {"b": null}]' },
  ]);
  guest.call('isolaMissing', []);
  delete globalThis.isolaWarm;
  delete globalThis.isolaWarmUp;
}
