'use strict';

// The outcome of code that runs in a context.

const CHART = 'application/vnd.isorun.chart+json';

/** A value that code has shown, in one or more representations. */
class Result {
  constructor({ data, metadata = {}, is_main_result: isMainResult = false }) {
    /** The representations by MIME type. */
    this.data = data;
    this.metadata = metadata;
    this.isMainResult = isMainResult;
  }

  get text() {
    return this.#string('text/plain');
  }

  get html() {
    return this.#string('text/html');
  }

  get markdown() {
    return this.#string('text/markdown');
  }

  get svg() {
    return this.#string('image/svg+xml');
  }

  get png() {
    return this.#string('image/png');
  }

  get jpeg() {
    return this.#string('image/jpeg');
  }

  get latex() {
    return this.#string('text/latex');
  }

  get json() {
    return this.data['application/json'] ?? null;
  }

  get chart() {
    return this.data[CHART] ?? null;
  }

  /** Returns the MIME types of the representations. */
  formats() {
    return Object.keys(this.data);
  }

  toJSON() {
    return { data: this.data, metadata: this.metadata, is_main_result: this.isMainResult };
  }

  #string(mime) {
    const found = this.data[mime];
    return typeof found === 'string' ? found : null;
  }
}

/** The outcome of code that was run. */
class Execution {
  constructor({ results, logs, error, execution_count: executionCount }) {
    this.results = results;
    this.logs = logs;
    this.error = error;
    this.executionCount = executionCount;
  }

  /** The value of the last expression as text, or `null`. */
  get text() {
    return this.results.find((result) => result.isMainResult)?.text ?? null;
  }

  /** Returns the form that an execution has in all languages. */
  toJSON() {
    const { results, logs, error, executionCount } = this;
    return { results, logs, error, execution_count: executionCount };
  }
}

/** Builds an `Execution` from the events that the native part sends. */
class ExecutionBuilder {
  #execution = {
    results: [],
    logs: { stdout: [], stderr: [] },
    error: null,
    execution_count: 0,
  };

  /** Adds an event, and returns its kind and what a listener of this kind receives. */
  add(event) {
    switch (event.type) {
      case 'stdout':
      case 'stderr':
        this.#execution.logs[event.type].push(event.text);
        return [event.type, event.text];
      case 'result': {
        const result = new Result(event);
        this.#execution.results.push(result);
        return ['result', result];
      }
      case 'error': {
        const { name, value, traceback } = event;
        this.#execution.error = { name, value, traceback };
        return ['error', this.#execution.error];
      }
      default:
        this.#execution.execution_count = event.execution_count;
        return ['end', undefined];
    }
  }

  execution() {
    return new Execution(this.#execution);
  }
}

module.exports = { Execution, ExecutionBuilder, Result };
