// The guest side of the contract (`wit/isola.wit`). Everything here is set up
// while the component is built; a sandbox starts from that snapshot.

import { installAbort } from './abort.js';
import { installBlob } from './blob.js';
import {
  contextInfos,
  createContext,
  endCode,
  evaluateSource,
  prepareContexts,
  removeContext,
  restartContext,
  showError,
  showResult,
  startCode,
} from './code.js';
import { callFunction, resolvedText } from './entry.js';
import { failure } from './failures.js';
import { installConsole } from './console.js';
import { installEnvironment, setArguments, setEnvironment } from './environment.js';
import { installEvents } from './events.js';
import { installFiles } from './files.js';
import { installFormData } from './form-data.js';
import { installFetch } from './fetch.js';
import { installHostcall } from './hostcall.js';
import { forgetRandom, installRandom } from './random.js';
import { installIntl } from './intl.js';
import { useTexts } from './lazy.js';
import * as lazyTexts from './lazy-texts.js';
import { installRegExp } from './regexp.js';
import { installRequest } from './request.js';
import { installResponse } from './response.js';
import { installStreams } from './streams.js';
import { installMessages } from './messages.js';
import { installStructuredClone } from './structured-clone.js';
import { installTextStreams } from './text-streams.js';
import { installText } from './text.js';
import { forgetTimeOrigin, installTimeOrigin } from './time-origin.js';
import { installTimers } from './timers.js';
import { installUrl } from './url.js';
import { microtask, SafeNumber, SafePromise, whenSettled } from './intrinsics.js';
import * as loop from './loop.js';
import { unhandled } from './rejections.js';
import { runSource } from './modules.js';
import { limitValues } from './values.js';

installHostcall(globalThis);
installTimers(globalThis);
installEvents(globalThis);
installAbort(globalThis);
installConsole(globalThis);
installEnvironment(globalThis);
installRandom();
installUrl();
useTexts(lazyTexts);
installText();
installRegExp();
installIntl();
installTimeOrigin();
installStreams();
installBlob(globalThis);
installFormData(globalThis);
installStructuredClone(globalThis);
installMessages(globalThis);
installTextStreams(globalThis);
installRequest(globalThis);
installResponse(globalThis);
installFetch(globalThis);
installFiles(globalThis);
prepareContexts();

const ok = (val) => ({ tag: 'ok', val });
const err = (thrown) => ({ tag: 'err', val: failure(thrown) });
const failed = (val) => ({ tag: 'err', val });

export const guest = {
  start({ env, arguments: given, maxValueSize }) {
    setEnvironment(env);
    setArguments(given);
    limitValues(SafeNumber(maxValueSize));
    forgetTimeOrigin();
    return ok(undefined);
  },

  resume({ env, arguments: given, maxValueSize }) {
    setEnvironment(env);
    if (given.length > 0) setArguments(given);
    limitValues(SafeNumber(maxValueSize));
    forgetRandom();
    forgetTimeOrigin();
    return ok(undefined);
  },

  load(source, name) {
    loop.begin();
    let promise;
    try {
      promise = runSource(source, name);
    } catch (error) {
      loop.end();
      return err(error);
    }
    return promise === undefined ? finished(undefined) : settled(promise);
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
    return typeof json === 'string' ? finished(json) : settled(json);
  },

  evaluate(source) {
    loop.begin();
    let promise;
    try {
      promise = resolvedText(evaluateSource(source));
    } catch (error) {
      loop.end();
      return err(error);
    }
    return settled(promise);
  },

  runCode(source, id) {
    const code = startCode(source, id);
    if (code.failure !== undefined) return failed(code.failure);
    loop.begin();
    const { context } = code;
    const show = (value) => {
      showResult(value);
      return endCode(context);
    };
    const fail = (error) => {
      try {
        showError(error);
      } catch (unsent) {
        endCode(context);
        return err(unsent);
      }
      return ok(endCode(context));
    };
    let value;
    try {
      value = code.run();
      if (!isPromise(value)) {
        value = show(value);
        if (!unhandled()) {
          loop.end();
          return ok(value);
        }
      }
    } catch (error) {
      loop.end();
      return fail(error);
    }
    return settled(isPromise(value) ? shown(value, show) : value, fail);
  },

  createContext(cwd) {
    const { id, failure } = createContext(cwd);
    return failure === undefined ? ok(id) : failed(failure);
  },

  restartContext(id) {
    const failure = restartContext(id);
    return failure === undefined ? ok(undefined) : failed(failure);
  },

  removeContext(id) {
    const failure = removeContext(id);
    return failure === undefined ? ok(undefined) : failed(failure);
  },

  contexts() {
    return ok(contextInfos());
  },

  // JavaScript has no exit handlers.
  finish() {
    return ok(undefined);
  },
};

const isPromise = (value) => value instanceof SafePromise;

async function shown(promise, show) {
  return show(await promise);
}

/** Returns the result of a call that has finished, unless a promise was rejected in it. */
function finished(value) {
  if (unhandled()) return settled(value);
  loop.end();
  return ok(value);
}

/**
 * Returns a thenable for a pending call. It never rejects, which would abort the guest.
 * `outcomeOf` converts an error to the outcome of the call.
 */
function settled(promise, outcomeOf = err) {
  // An object with its own `then` instead of a promise, so that no script can replace it.
  return {
    then(answer) {
      let open = true;
      const close = (outcome) => {
        if (!open) return;
        open = false;
        loop.end();
        answer(outcome);
      };
      const fail = (error) => {
        if (open) close(outcomeOf(error));
      };
      const succeed = (value) => {
        if (!open) return;
        if (!unhandled()) return close(ok(value));
        // A microtask may still add a handler. If none does, the call fails.
        loop.whenDrained(() => close(ok(value)));
      };
      loop.onFailure(fail);
      whenSettled(promise, succeed, fail);
      // An async function that did not wait for anything has finished by then.
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
  guest.load(
    'const isolaWarm = 1;\nfunction isolaWarmUp(a, b) {\n  return { a, b };\n}\n',
    'warm.js',
  );
  guest.call('isolaWarmUp', [
    { name: undefined, value: '1' },
    { name: 'x', value: '[1.5, "a", {"b": null}]' },
  ]);
  guest.call('isolaMissing', []);
  delete globalThis.isolaWarm;
  delete globalThis.isolaWarmUp;
}
