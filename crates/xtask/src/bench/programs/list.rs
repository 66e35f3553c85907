//! The programs: benchmarks of pyperformance, and one loop.
//!
//! Benchmarks of pyperformance that are left out:
//!
//! - They start threads or processes, use a network, or measure files: 2to3, asyncio_tcp,
//!   asyncio_websockets, concurrent_imap, dulwich_log, fastapi, hg_startup, pathlib,
//!   python_startup, tornado_http, and the functions of xml_etree that read a file.
//! - They need an event loop, which each engine replaces by its own: async_tree.
//! - They need native code that the guest does not have: dask, sqlalchemy, sqlite_synth, yaml.
//! - They need a package without a wheel: crypto_pyaes.
//! - They need a large package, and measure what the others measure: chameleon, coverage,
//!   django_template, docutils, genshi, mako, networkx, sphinx, sqlglot, sympy, xdsl.
//! - They depend mostly on how many other objects the interpreter holds: gc_collect.
//! - They take minutes: bpe_tokeniser.

/// A program that is measured.
pub(super) struct Program {
    pub name: &'static str,
    /// The directory in pyperformance, without its prefix `bm_`.
    pub directory: &'static str,
    /// The name of the measured function, if the benchmark has several and no argument
    /// selects one.
    pub function: &'static str,
    pub arguments: &'static str,
}

pub(super) const PROGRAMS: &[Program] = &[
    with("5 million additions", "", ""),
    with("argparse", "argparse", "many_optionals"),
    with("argparse_subparsers", "argparse", "subparsers"),
    whole("async_generators"),
    with("barnes_hut", "barnes_hut", "--iterations 10"),
    one("base64_large", "base64"),
    one("base85_small", "base64"),
    whole("chaos"),
    whole("comprehensions"),
    whole("coroutines"),
    whole("decimal_factorial"),
    whole("decimal_pi"),
    one("deepcopy", "deepcopy"),
    one("deepcopy_memo", "deepcopy"),
    one("deepcopy_reduce", "deepcopy"),
    whole("deltablue"),
    whole("fannkuch"),
    whole("float"),
    whole("gc_traversal"),
    whole("generators"),
    whole("go"),
    whole("hexiom"),
    whole("html5lib"),
    whole("json_dumps"),
    whole("json_loads"),
    with("logging_format", "logging", "format"),
    with("logging_silent", "logging", "silent"),
    with("logging_simple", "logging", "simple"),
    whole("mdp"),
    whole("meteor_contest"),
    whole("nbody"),
    whole("nqueens"),
    with("pickle", "pickle", "pickle"),
    with("pickle_dict", "pickle", "pickle_dict"),
    with("pickle_list", "pickle", "pickle_list"),
    with("pickle_pure_python", "pickle", "--pure-python pickle"),
    whole("pidigits"),
    one("pprint_pformat", "pprint"),
    whole("pyflate"),
    whole("raytrace"),
    whole("regex_compile"),
    whole("regex_dna"),
    whole("regex_effbot"),
    whole("regex_v8"),
    whole("richards"),
    whole("richards_super"),
    with("scimark_fft", "scimark", "fft"),
    with("scimark_lu", "scimark", "lu"),
    with("scimark_monte_carlo", "scimark", "monte_carlo"),
    with("scimark_sor", "scimark", "sor"),
    with("scimark_sparse_mat_mult", "scimark", "sparse_mat_mult"),
    whole("spectral_norm"),
    whole("telco"),
    whole("tomli_loads"),
    whole("typing_runtime_protocols"),
    whole("unpack_sequence"),
    with("unpickle", "pickle", "unpickle"),
    with("unpickle_list", "pickle", "unpickle_list"),
    with("unpickle_pure_python", "pickle", "--pure-python unpickle"),
    with("xml_etree_generate", "xml_etree", "generate"),
    with("xml_etree_process", "xml_etree", "process"),
];

/// Creates an entry of a benchmark with one function.
const fn whole(name: &'static str) -> Program {
    Program { name, directory: name, function: "", arguments: "" }
}

/// Creates an entry of a benchmark with arguments.
const fn with(name: &'static str, directory: &'static str, arguments: &'static str) -> Program {
    Program { name, directory, function: "", arguments }
}

/// Creates an entry of one function of a benchmark.
const fn one(name: &'static str, directory: &'static str) -> Program {
    Program { name, directory, function: name, arguments: "" }
}
