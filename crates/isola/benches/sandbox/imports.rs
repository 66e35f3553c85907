//! The import of bundled modules of the Python guest that were not imported at its
//! build.

use std::{process::Command, time::Duration};

use isola::{Runtime, args};

use crate::{
    loaded,
    subprocess::{median_of, real_program},
    table::{Column, Table},
    template,
};

const IMPORT: &str = "import of nine bundled modules";
const RATIO: &str = "import of bundled modules, as a multiple of native";

const RUNS: usize = 15;

/// The modules that the guest has imported already are imported before the
/// measurement.
const SOURCE: &str = "
import argparse, asyncio, base64, calendar, copy, csv, dataclasses, datetime, decimal, difflib
import email.message, fractions, gzip, hashlib, html, inspect, io, itertools, json, logging, math
import pathlib, pickle, random, re, secrets, shlex, shutil, statistics, string, struct, tempfile
import textwrap, time, tokenize, tomllib, traceback, types, typing, unittest.mock, urllib.error
import urllib.parse, uuid, xml.etree.ElementTree, zipfile, zlib, zoneinfo

def measure():
    start = time.perf_counter()
    import configparser, html.parser, http.server, imaplib, mailbox, optparse, plistlib, sqlite3
    import xmlrpc.client
    return time.perf_counter() - start
";

pub(crate) fn measure(table: &mut Table) {
    if !table.wants(IMPORT) && !table.wants(RATIO) {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let python = real_program("python3", "-c");
    let native = || {
        let source = format!("{SOURCE}print(measure())");
        let output = Command::new(&python).args(["-c", &source]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        Duration::from_secs_f64(text.trim().parse().unwrap())
    };
    // The first run compiles the files and loads them into the page cache.
    native();
    let native = median_of(RUNS, native);
    let template = runtime.block_on(template(Runtime::Python));
    let guest = median_of(RUNS, || {
        runtime.block_on(async {
            let sandbox = loaded(&template, SOURCE).await;
            let seconds = sandbox.run("measure", args![]).await.unwrap();
            Duration::from_secs_f64(seconds.to().unwrap())
        })
    });
    table.duration(IMPORT, Column::Python, guest, None);
    let ratio = guest.as_secs_f64() / native.as_secs_f64();
    table.ratio(RATIO, Column::Python, ratio, Some(2.0));
}
