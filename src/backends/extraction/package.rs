//! What DOCX and ODT share: a ZIP archive whose parts are XML.
//!
//! Invariants: a part is never unpacked beyond `PART_BYTES`, all parts together never beyond `PACKAGE_BYTES`,
//! whatever the archive claims. It must not know what the parts mean.

use std::io::{Cursor, Read};

use quick_xml::Reader;
use quick_xml::escape::resolve_xml_entity;
use quick_xml::events::{BytesStart, Event};
use zip::ZipArchive;
use zip::result::ZipError;

use super::{ExtractFailure, text};

/// One part, unpacked, at most.
const PART_BYTES: u64 = 64 << 20;
/// All parts that are read, unpacked, at most.
const PACKAGE_BYTES: u64 = 128 << 20;

/// An opened archive.
pub(super) struct Package<'b> {
    archive: ZipArchive<Cursor<&'b [u8]>>,
    left: u64,
}

impl<'b> Package<'b> {
    pub(super) fn open(bytes: &'b [u8]) -> Result<Self, ExtractFailure> {
        let archive = ZipArchive::new(Cursor::new(bytes))
            .map_err(|_| ExtractFailure::broken("its archive is damaged or incomplete"))?;
        Ok(Self { archive, left: PACKAGE_BYTES })
    }

    /// The names of all parts.
    pub(super) fn names(&self) -> Vec<String> {
        self.archive.file_names().filter_map(Result::ok).map(|name| name.into_owned()).collect()
    }

    /// A part as text; `None` when the archive has none of this name.
    pub(super) fn part(&mut self, name: &str) -> Result<Option<String>, ExtractFailure> {
        let file = match self.archive.by_name(name) {
            Ok(file) => file,
            Err(ZipError::FileNotFound) => return Ok(None),
            Err(ZipError::UnsupportedArchive(ZipError::PASSWORD_REQUIRED)) => return Err(ExtractFailure::Encrypted),
            Err(_) => return Err(ExtractFailure::broken(format!("its part {name} is damaged"))),
        };
        let limit = PART_BYTES.min(self.left);
        let mut bytes = Vec::new();
        let read = file
            .take(limit + 1)
            .read_to_end(&mut bytes)
            .map_err(|_| ExtractFailure::broken(format!("its part {name} is damaged")))? as u64;
        if read > limit {
            return Err(ExtractFailure::TooLarge { limit_bytes: limit });
        }
        self.left -= read;
        Ok(Some(text::decode(&bytes)?.into_owned()))
    }
}

/// What a document's parser hears while its XML is read. Names are without prefix.
pub(super) trait Listener {
    /// An element begins. `false`: it and what it contains is left out, and `end` is not heard.
    fn start(&mut self, name: &str, element: &BytesStart<'_>) -> bool;
    /// An element ends.
    fn end(&mut self, name: &str);
    /// Characters, entities resolved.
    fn text(&mut self, text: &str);
    /// Nothing more is needed.
    fn is_done(&self) -> bool;
}

/// Reads an XML text. A mistake at some place ends it there: what came before is kept by the listener.
pub(super) fn read_xml(xml: &str, listener: &mut impl Listener) -> Result<(), ExtractFailure> {
    let mut reader = Reader::from_str(xml);
    // Depth below an element that is left out.
    let mut skipping = 0_usize;
    while !listener.is_done() {
        let event = reader.read_event().map_err(|_| ExtractFailure::broken("its XML is damaged"))?;
        match event {
            Event::Start(_) if skipping > 0 => skipping += 1,
            Event::Start(element) => {
                let heard = listener.start(element.local_name().as_ref(), &element);
                skipping = usize::from(!heard);
            }
            Event::Empty(element) if skipping == 0 => {
                let heard = listener.start(element.local_name().as_ref(), &element);
                if heard {
                    listener.end(element.local_name().as_ref());
                }
            }
            Event::End(_) if skipping > 0 => skipping -= 1,
            Event::End(element) => listener.end(element.local_name().as_ref()),
            Event::Text(text) if skipping == 0 => listener.text(&text),
            Event::CData(text) if skipping == 0 => listener.text(&text),
            Event::GeneralRef(reference) if skipping == 0 => {
                if let Ok(Some(c)) = reference.resolve_char_ref() {
                    listener.text(c.encode_utf8(&mut [0; 4]));
                } else if let Some(text) = resolve_xml_entity(&reference) {
                    listener.text(text);
                }
            }
            Event::Eof => break,
            _ => {}
        }
    }
    Ok(())
}

/// The value of an attribute, by its name without prefix.
pub(super) fn attribute(element: &BytesStart<'_>, name: &str) -> Option<String> {
    element
        .attributes()
        .with_checks(false)
        .flatten()
        .find(|a| a.key.local_name().as_ref() == name)
        .map(|a| a.value.into_owned())
}

/// The text of the first element of this name.
pub(super) fn first_text(xml: &str, name: &str) -> Option<String> {
    struct First<'n> {
        name: &'n str,
        inside: bool,
        text: String,
        done: bool,
    }
    impl Listener for First<'_> {
        fn start(&mut self, name: &str, _: &BytesStart<'_>) -> bool {
            self.inside |= name == self.name;
            true
        }
        fn end(&mut self, name: &str) {
            if self.inside && name == self.name {
                self.done = true;
            }
        }
        fn text(&mut self, text: &str) {
            if self.inside {
                self.text.push_str(text);
            }
        }
        fn is_done(&self) -> bool {
            self.done
        }
    }
    let mut first = First { name, inside: false, text: String::new(), done: false };
    read_xml(xml, &mut first).ok()?;
    first.done.then_some(first.text)
}
