//! Says which sources this is built of: nodes share answers with those that were built of the same, so that one that
//! renders an answer otherwise never serves another's. Made of the files alone, without a repository.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// What an answer is made of: the rooms that this one uses, and the versions of everything that they use.
pub const SOURCES: &[&str] =
    &["../src/kernel", "../src/domain", "../src/engine", "../src/backends", "../read_models", ".", "../Cargo.lock"];

fn main() -> io::Result<()> {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    for source in SOURCES {
        println!("cargo:rerun-if-changed={source}");
    }
    println!("cargo:rustc-env=ORIEL_SOURCES={:016x}", hash(&here, SOURCES)?);
    Ok(())
}

/// Of the names and contents of all Rust files in these folders, and of these files.
pub fn hash(root: &Path, sources: &[&str]) -> io::Result<u64> {
    let mut files = BTreeMap::new();
    for source in sources {
        gather(&root.join(source), source, &mut files)?;
    }
    let mut hash = DefaultHasher::new();
    for (name, content) in &files {
        for part in [name.as_bytes(), content] {
            hash.write_usize(part.len());
            hash.write(part);
        }
    }
    Ok(hash.finish())
}

fn gather(path: &Path, name: &str, files: &mut BTreeMap<String, Vec<u8>>) -> io::Result<()> {
    if !path.is_dir() {
        files.insert(name.to_owned(), fs::read(path)?);
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = format!("{name}/{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() || name.ends_with(".rs") {
            gather(&entry.path(), &name, files)?;
        }
    }
    Ok(())
}
