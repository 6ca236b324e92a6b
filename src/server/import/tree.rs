//! The folder that is imported: which files, under which names, with which content.
//!
//! Invariants: names are relative, with `/`, in one order on every machine; a symbolic link is neither followed nor
//! read; content is hashed and sent in pieces.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256, digest};
use data_encoding::HEXLOWER;
use walkdir::{DirEntry, WalkDir};

/// A file to import.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// Where it is.
    pub path: PathBuf,
    /// Its path below the folder, with `/`.
    pub name: String,
    /// Its bytes when the folder was walked.
    pub size: u64,
}

/// Everything in the folder.
#[derive(Debug, Default)]
pub struct Tree {
    /// The files, sorted.
    pub files: Vec<Found>,
    /// Symbolic links.
    pub links: usize,
    /// What could not be looked at, or has a name that cannot be sent.
    pub unreadable: Vec<(String, String)>,
}

/// Walks a folder. The error says what is wrong with the folder itself.
pub fn walk(folder: &Path, hidden: bool) -> Result<Tree, String> {
    match folder.metadata() {
        Err(error) => return Err(format!("{}: {error}", folder.display())),
        Ok(about) if !about.is_dir() => return Err(format!("{} is not a folder", folder.display())),
        Ok(_) => {}
    }
    let mut tree = Tree::default();
    let wanted = |entry: &DirEntry| hidden || entry.depth() == 0 || !is_hidden(entry);
    for entry in WalkDir::new(folder).follow_links(false).sort_by_file_name().into_iter().filter_entry(wanted) {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                let place = error.path().map(|path| path.display().to_string()).unwrap_or_default();
                let reason = error.into_io_error().map_or_else(|| "unreadable".to_owned(), |error| error.to_string());
                tree.unreadable.push((place, reason));
                continue;
            }
        };
        if entry.path_is_symlink() && entry.depth() > 0 {
            tree.links += 1;
        } else if entry.file_type().is_file() {
            match (name(folder, entry.path()), entry.metadata()) {
                (Ok(name), Ok(about)) => tree.files.push(Found { path: entry.into_path(), name, size: about.len() }),
                (Err(reason), _) => tree.unreadable.push((entry.path().display().to_string(), reason.to_owned())),
                (_, Err(error)) => tree.unreadable.push((entry.path().display().to_string(), error.to_string())),
            }
        }
    }
    Ok(tree)
}

fn is_hidden(entry: &DirEntry) -> bool {
    entry.file_name().as_encoded_bytes().starts_with(b".")
}

fn name(folder: &Path, path: &Path) -> Result<String, &'static str> {
    let relative = path.strip_prefix(folder).unwrap_or(path);
    let parts: Option<Vec<&str>> = relative
        .components()
        .map(|part| match part {
            Component::Normal(part) => part.to_str(),
            _ => None,
        })
        .collect();
    let name = parts.ok_or("the name is not UTF-8")?.join("/");
    if name.chars().any(char::is_control) { Err("the name has control characters") } else { Ok(name) }
}

/// The SHA-256 of a file in hexadecimal, and how many bytes were read for it.
pub fn hash(path: &Path) -> io::Result<(String, u64)> {
    let mut file = File::open(path)?;
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; 128 << 10];
    let mut size = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((HEXLOWER.encode(context.finish().as_ref()), size)),
            Ok(count) => {
                context.update(&buffer[..count]);
                size += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Opens a file that was hashed before, when it still has that many bytes.
pub async fn open(path: &Path, size: u64) -> Result<tokio::fs::File, String> {
    let file = tokio::fs::File::open(path).await.map_err(|error| error.to_string())?;
    match file.metadata().await {
        Ok(about) if about.len() == size => Ok(file),
        Ok(_) => Err("the file changed while it was read; import again".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Project, path and content in one: the idempotency key of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of a file in a project. None of the three texts can hold the separator.
    pub fn of(project: &str, name: &str, sha256: &str) -> Self {
        let text = [project, name, sha256].join("\0");
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
        Self(bytes)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn files_are_found_in_order_without_hidden_ones_and_links() {
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "x").unwrap();
        let root = folder.path();
        std::fs::create_dir_all(root.join("b/.git")).unwrap();
        for file in ["c.txt", "a.txt", "b/z ä.txt", "b/.git/config", ".hidden"] {
            std::fs::write(root.join(file), file).unwrap();
        }
        std::os::unix::fs::symlink(outside.path(), root.join("folder-link")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("secret"), root.join("file-link")).unwrap();
        std::os::unix::fs::symlink(root, root.join("b/loop")).unwrap();

        let names = |tree: &Tree| tree.files.iter().map(|file| file.name.clone()).collect::<Vec<_>>();
        let tree = walk(root, false).unwrap();
        assert_eq!(names(&tree), ["a.txt", "b/z ä.txt", "c.txt"]);
        assert_eq!((tree.links, tree.unreadable.len(), tree.files[0].size), (3, 0, 5));
        assert_eq!(names(&walk(root, true).unwrap()), [".hidden", "a.txt", "b/.git/config", "b/z ä.txt", "c.txt"]);
        assert_eq!(names(&walk(&root.join("."), false).unwrap()), ["a.txt", "b/z ä.txt", "c.txt"]);
    }

    #[test]
    fn names_that_cannot_be_sent_are_told() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("two\r\nlines"), "x").unwrap();
        let latin1 = std::os::unix::ffi::OsStrExt::from_bytes(b"caf\xe9");
        std::fs::write(folder.path().join::<&std::ffi::OsStr>(latin1), "x").unwrap();
        let tree = walk(folder.path(), false).unwrap();
        assert_eq!((tree.files.len(), tree.unreadable.len()), (0, 2));
    }

    #[test]
    fn what_is_no_folder_is_said() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(walk(file.path(), false).unwrap_err().contains("is not a folder"));
        assert!(walk(Path::new("/nowhere"), false).unwrap_err().contains("/nowhere"));
    }

    #[tokio::test]
    async fn content_is_hashed_and_a_change_of_size_noticed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "abc").unwrap();
        let (sha256, size) = hash(file.path()).unwrap();
        assert_eq!(sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert!(open(file.path(), size).await.is_ok());
        std::fs::write(file.path(), "abcd").unwrap();
        assert!(open(file.path(), size).await.unwrap_err().contains("changed"));
    }

    proptest! {
        #[test]
        fn a_fingerprint_tells_every_part_apart(a in "[a-z/]{0,6}", b in "[a-z/]{0,6}", c in "[a-z]{0,6}", d in "[a-z/]{0,6}") {
            let fingerprint = Fingerprint::of(&a, &b, &c);
            prop_assert_eq!(fingerprint, Fingerprint::of(&a, &b, &c));
            if b != d {
                prop_assert_ne!(fingerprint, Fingerprint::of(&a, &d, &c));
            }
            if !b.is_empty() {
                let joined = [a, b].concat();
                prop_assert_ne!(fingerprint, Fingerprint::of(&joined, "", &c));
            }
        }
    }
}
