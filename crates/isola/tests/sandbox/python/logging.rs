//! `sandbox.logging`, and the standard `logging` module beside it.

use isola::{Event, Runtime, args};

use crate::fixture::{Script, events, loaded};

const IMPORTS: &str = "
import logging, logging.config, sys, warnings
from sandbox.logging import debug, error, info, warning
class Broken:
    def __str__(self):
        raise ValueError('no text')
    __repr__ = __str__
";

/// Returns the output and logs of one call of `main`, in order.
async fn written(script: &str) -> Vec<String> {
    let source = format!("{IMPORTS}{script}");
    let script = Script { python: source.leak(), javascript: "" };
    let sandbox = loaded(Runtime::Python, script).await;
    let all = events(sandbox.run_stream("main", args![]).unwrap()).await;
    all.into_iter()
        .filter_map(|event| match event {
            Event::Log(record) => Some(format!("{}: {}", record.level, record.message)),
            Event::Stdout(text) => Some(format!("out: {}", text.trim_end())),
            Event::Stderr(text) => Some(format!("err: {}", text.trim_end())),
            Event::End(value) if value.is_null() => None,
            other => Some(format!("{other:?}")),
        })
        .collect()
}

async fn check(rows: &[(&str, &str, &[&str])]) {
    for (what, body, expected) in rows {
        let body = body.trim_start_matches('\n').replace('\n', "\n    ");
        assert_eq!(written(&format!("def main():\n    {body}\n")).await, *expected, "{what}");
    }
}

#[tokio::test]
async fn logging_functions_create_records() {
    check(&[
        (
            "levels",
            "debug('a'); info('b'); warning('c'); error('d')",
            &["debug: a", "info: b", "warning: c", "error: d"],
        ),
        (
            "arguments",
            "
debug('%d of %s', 1, 'two')
info('100%')
info('%(name)s', {'name': 'mapped'})
warning('%s', {'a': 1})
error('%s%%', 5)",
            &["debug: 1 of two", "info: 100%", "info: mapped", "warning: {'a': 1}", "error: 5%"],
        ),
        (
            "fields",
            "
debug('d', n=1)
info('stored %d rows', 3, table='users')
warning('w', message='m', level=None, args=(1,))
error('e', cause=ValueError('v'))",
            &[
                "debug: d n=1",
                "info: stored 3 rows table='users'",
                "warning: w message='m' level=None args=(1,)",
                "error: e cause=ValueError('v')",
            ],
        ),
        (
            "messages that are no text",
            "info(42); info(None); info(ValueError('v')); info({'a': 1}, b=2); info('\\ud800')",
            &["info: 42", "info: None", "info: v", "info: {'a': 1} b=2", "info: \\ud800"],
        ),
        (
            "a wrong format is shown, not raised",
            "
debug('%d rows', 'x')
info('no place', 1, table='t')
warning('%d %d', 1)
error('%q', 1)",
            &[
                "debug: %d rows (not formatted: %d format: a real number is required, not str; arguments: ('x',))",
                "info: no place (not formatted: not all arguments converted during string formatting; arguments: (1,)) table='t'",
                "warning: %d %d (not formatted: not enough arguments for format string; arguments: (1,))",
                "error: %q (not formatted: unsupported format character 'q' (0x71) at index 1; arguments: (1,))",
            ],
        ),
        (
            "what cannot be shown",
            "info(Broken()); info('%s', Broken()); info('f', value=Broken())",
            &[
                "info: <a Broken that cannot be shown> (not formatted: no text; arguments: ())",
                "info: %s (not formatted: no text; arguments: <a tuple that cannot be shown>)",
                "info: f value=<a Broken that cannot be shown>",
            ],
        ),
        (
            "exceptions",
            "
error('nothing', exc_info=True)
error('one', exc_info=ValueError('given'), n=1)
try:
    1 / 0
except ZeroDivisionError as raised:
    warning('current', exc_info=True)
    info('a triple', exc_info=sys.exc_info())",
            &[
                "error: nothing",
                "error: one n=1\nValueError: given",
                "warning: current\nTraceback (most recent call last):\n  File \"script.py\", line 12, in main\n    1 / 0\n    ~~^~~\nZeroDivisionError: division by zero",
                "info: a triple\nTraceback (most recent call last):\n  File \"script.py\", line 12, in main\n    1 / 0\n    ~~^~~\nZeroDivisionError: division by zero",
            ],
        ),
        (
            "no message",
            "
try:
    info()
except TypeError as raised:
    print(raised)",
            &["out: info() missing 1 required positional argument: 'message'"],
        ),
    ])
    .await;
}

#[tokio::test]
async fn standard_logging_module_creates_records() {
    check(&[
        (
            "its levels, and those between and above",
            "
log = logging.getLogger('shop')
for level in (5, 10, 15, 20, 30, 35, 40, 50, 60):
    log.log(level, '%d', level)
log.critical('critical')
logging.info('root')",
            &[
                "debug: 5",
                "debug: 10",
                "debug: 15",
                "info: 20",
                "warning: 30",
                "warning: 35",
                "error: 40",
                "error: 50",
                "error: 60",
                "error: critical",
                "info: root",
            ],
        ),
        (
            "a logger's own level, and disabling",
            "
log = logging.getLogger('shop')
log.setLevel(logging.WARNING)
log.info('hidden')
log.warning('shown')
logging.disable(logging.ERROR)
log.error('hidden')
log.critical('shown')",
            &["warning: shown", "error: shown"],
        ),
        (
            "fields, stacks and wrong formats",
            "
logging.info('%s', 'a', extra={'user': 7})
logging.info('%d', 'x')
logging.info(Broken())
logging.warning('here', stack_info=True, stacklevel=1)",
            &[
                "info: a user=7",
                "info: %d (not formatted: %d format: a real number is required, not str; arguments: ('x',))",
                "info: <a Broken that cannot be shown> (not formatted: no text; arguments: ())",
                "warning: here\nStack (most recent call last):\n  File \"script.py\", line 12, in main\n    logging.warning('here', stack_info=True, stacklevel=1)",
            ],
        ),
        (
            "exceptions",
            "
try:
    raise KeyError('k')
except KeyError:
    logging.getLogger('shop').exception('failed %d', 1)",
            &[
                "error: failed 1\nTraceback (most recent call last):\n  File \"script.py\", line 10, in main\n    raise KeyError('k')\nKeyError: 'k'",
            ],
        ),
        (
            "a logger that does not propagate, and one with a library's empty handler",
            "
alone = logging.getLogger('alone')
alone.propagate = False
alone.info('alone')
library = logging.getLogger('library')
library.addHandler(logging.NullHandler())
library.warning('library')
library.getChild('part').warning('part')
library.propagate = False
library.warning('silenced')",
            &["info: alone", "warning: library", "warning: part"],
        ),
        (
            "basicConfig sets the level and the format",
            "
logging.info('before')
logging.basicConfig(level=logging.INFO)
logging.debug('hidden')
logging.info('plain', extra={'n': 1})
logging.basicConfig(level='ERROR')
logging.basicConfig(format='%(levelname)s %(name)s %(message)s', force=True)
logging.getLogger('shop').warning('%s', 'formatted')
logging.warning('%d', 'wrong')",
            &[
                "info: before",
                "info: plain n=1",
                "warning: WARNING shop formatted",
                "warning: %d (not formatted: %d format: a real number is required, not str; arguments: ('wrong',))",
            ],
        ),
        (
            "handlers of user code take the place of the host",
            "
records = []
class Keep(logging.Handler):
    def emit(self, record):
        records.append(record.getMessage())
log = logging.getLogger('shop')
log.addHandler(Keep())
log.info('kept')
print(records)
warning('between')
logging.basicConfig(stream=sys.stdout, level=logging.INFO, force=True)
logging.info('printed')
logging.basicConfig(handlers=[logging.StreamHandler()], format='%(message)s', force=True)
logging.info('to stderr')",
            &["out: ['kept']", "warning: between", "out: INFO:root:printed", "err: to stderr"],
        ),
        (
            "dictConfig",
            "
logging.config.dictConfig({
    'version': 1,
    'formatters': {'short': {'format': '%(levelname)s %(message)s'}},
    'handlers': {'out': {'class': 'logging.StreamHandler', 'stream': 'ext://sys.stdout', 'formatter': 'short'}},
    'loggers': {'shop': {'handlers': ['out'], 'level': 'INFO', 'propagate': False}},
})
logging.getLogger('shop').debug('hidden')
logging.getLogger('shop').info('configured')
logging.getLogger('other').info('as before')",
            &["out: INFO configured", "info: as before"],
        ),
        (
            "no last resort",
            "
logging.lastResort = None
logging.getLogger('shop').info('lost')",
            &["err: No handlers could be found for logger \"shop\""],
        ),
    ])
    .await;
}

#[tokio::test]
async fn warnings_can_be_captured() {
    check(&[(
        "as records",
        "
warnings.warn('shown')
logging.captureWarnings(True)
warnings.warn('logged', DeprecationWarning)
logging.captureWarnings(False)",
        &[
            "err: script.py:9: UserWarning: shown\n  warnings.warn('shown')",
            "warning: script.py:11: DeprecationWarning: logged\n  warnings.warn('logged', DeprecationWarning)\n",
        ],
    )])
    .await;
}

#[tokio::test]
async fn records_and_output_keep_their_order() {
    check(&[(
        "all of them",
        "
print('a', end='')
info('b')
print('c', file=sys.stderr, end='')
logging.error('d')
sys.stdout.write('e')
debug('f')",
        &["out: a", "info: b", "err: c", "error: d", "out: e", "debug: f"],
    )])
    .await;
}
