//! The JavaScript guest: its globals, its modules, its TypeScript.

mod abort;
mod console;
mod fetch;
mod modules;
mod rejections;
mod samples;
mod tables;
