//! The JavaScript guest: its globals, its modules, its TypeScript.

mod abort;
mod console;
mod engine;
mod fetch;
mod libraries;
mod modules;
mod rejections;
mod samples;
mod tables;
