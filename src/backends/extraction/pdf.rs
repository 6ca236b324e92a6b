//! PDF: the text of all pages, their number, the title.
//!
//! The content streams are interpreted as if to draw them, and the glyphs are caught on the way: fonts, encodings,
//! forms, annotations and invisible text under a scan come out as a reader would see them. Encryption with the
//! empty password is opened. It must not draw, and it must not know how glyphs become words (`pdf_layout`).

use hayro_interpret::font::{Glyph as PdfGlyph, GlyphRun};
use hayro_interpret::hayro_cmap::{BfString, WritingMode};
use hayro_interpret::hayro_syntax::object::{Array, Dict, Name, String as PdfString};
use hayro_interpret::hayro_syntax::page::Page;
use hayro_interpret::hayro_syntax::{DecryptionError, LoadPdfError, Pdf};
use hayro_interpret::kurbo::{Affine, BezPath, Point, Rect};
use hayro_interpret::{
    BlendMode, ClipPath, Context, Device, DrawMode, DrawProps, Image, ImageDrawProps, InterpreterCache,
    InterpreterSettings, SoftMask, interpret_page,
};

use super::pdf_layout::{Glyph, write_page};
use super::sink::TextSink;
use super::{About, ExtractFailure};

/// Stands for a glyph that no table of the file gives a meaning.
const UNKNOWN: &str = "\u{fffd}";

pub(super) fn extract(bytes: Vec<u8>, sink: &mut TextSink) -> Result<About, ExtractFailure> {
    let pdf = Pdf::new(bytes).map_err(|error| match error {
        LoadPdfError::Decryption(DecryptionError::PasswordProtected) => ExtractFailure::Encrypted,
        LoadPdfError::Decryption(_) => ExtractFailure::broken("it is encrypted in a way that cannot be opened"),
        LoadPdfError::Invalid => ExtractFailure::broken("its structure is damaged, it is no complete PDF"),
    })?;
    let pages = pdf.pages();
    if pages.is_empty() {
        return Err(ExtractFailure::broken("it contains no pages"));
    }
    let cache = InterpreterCache::new();
    for page in pages.iter() {
        if sink.is_full() {
            break;
        }
        let mut context = Context::new(
            Affine::IDENTITY,
            Rect::new(0.0, 0.0, 1.0, 1.0),
            &cache,
            pdf.xref(),
            InterpreterSettings::default(),
        );
        let mut catcher = GlyphCatcher::default();
        interpret_page(page, &mut context, &mut catcher);
        if catcher.is_meaningful() {
            write_page(&catcher.glyphs, sink);
        }
        write_undrawn_fields(page, &catcher.glyphs, sink);
    }
    Ok(About { title: pdf.metadata().title.as_deref().map(text_string), page_count: u32::try_from(pages.len()).ok() })
}

/// Forms may hold what was typed into a field and leave its drawing to the viewer.
fn write_undrawn_fields(page: &Page<'_>, drawn: &[Glyph], sink: &mut TextSink) {
    /// The field hides what is typed.
    const PASSWORD: u32 = 1 << 13;
    let Some(annotations) = page.raw().get::<Array<'_>>(b"Annots") else { return };
    let mut seen: Option<String> = None;
    for field in annotations.iter::<Dict<'_>>() {
        let is = |key: &[u8], wanted: &[u8]| field.get::<Name<'_>>(key).is_some_and(|name| &*name == wanted);
        let is_text = is(b"Subtype", b"Widget") && (is(b"FT", b"Tx") || is(b"FT", b"Ch"));
        if !is_text || field.get::<u32>(b"Ff").unwrap_or(0) & PASSWORD != 0 {
            continue;
        }
        let Some(value) = field.get::<PdfString<'_>>(b"V").map(|v| text_string(v.as_bytes())) else { continue };
        let compact: String = value.split_whitespace().collect();
        let seen = seen.get_or_insert_with(|| drawn.iter().flat_map(|g| g.text.split_whitespace()).collect());
        if !seen.contains(&compact) {
            sink.line();
            sink.words(&value);
            sink.line();
        }
    }
}

/// A "text string" of the PDF specification: UTF-16 or UTF-8 with a mark, else one byte per character.
fn text_string(bytes: &[u8]) -> String {
    match encoding_rs::Encoding::for_bom(bytes) {
        Some((encoding, _)) => encoding.decode(bytes).0.into_owned(),
        // Without a mark it is PDFDocEncoding, but UTF-8 is often found.
        None => match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => encoding_rs::WINDOWS_1252.decode(bytes).0.into_owned(),
        },
    }
}

/// A drawing device that draws nothing and notes every glyph.
#[derive(Default)]
struct GlyphCatcher {
    glyphs: Vec<Glyph>,
    /// Where the last run starts in `glyphs`.
    last_run: usize,
    /// One per open marked content; `Some` replaces what the glyphs inside say.
    replacements: Vec<Option<String>>,
}

impl GlyphCatcher {
    /// A page whose fonts hide what most glyphs mean gives noise, not text.
    fn is_meaningful(&self) -> bool {
        let unknown = self.glyphs.iter().filter(|g| g.text == UNKNOWN).count();
        unknown * 2 <= self.glyphs.len()
    }

    /// Drops the last run when it repeats the one before in place: outlined text and feigned bold are drawn twice.
    fn drop_repeated(&mut self, start: usize) {
        let (before, run) = (&self.glyphs[self.last_run..start], &self.glyphs[start..]);
        let repeats = !run.is_empty()
            && before.len() == run.len()
            && before.iter().zip(run).all(|(a, b)| {
                let near = 0.1 * a.size;
                a.text == b.text && (a.origin.0 - b.origin.0).abs() < near && (a.origin.1 - b.origin.1).abs() < near
            });
        if repeats {
            self.glyphs.truncate(start);
        } else {
            self.last_run = start;
        }
    }
}

impl<'a> Device<'a> for GlyphCatcher {
    fn draw_glyph_run(&mut self, run: &GlyphRun<'_, 'a>, props: DrawProps<'a>, _: &DrawMode) {
        let start = self.glyphs.len();
        let vertical = matches!(run.writing_mode(), WritingMode::Vertical);
        for glyph in run.glyphs() {
            let [a, b, c, d, _, _] = (props.transform * glyph.transform()).as_coeffs();
            let origin = props.transform * glyph.transform() * Point::ZERO;
            let size = 1000.0 * c.hypot(d);
            let unit = a.hypot(b);
            if !(origin.is_finite() && size.is_finite() && unit.is_finite() && unit > 0.0) {
                continue;
            }
            let width = match &**glyph {
                PdfGlyph::Outline(outline) => outline.advance_width(),
                PdfGlyph::Type3(type3) => type3.advance_width(),
            };
            let (direction, advance) = if vertical {
                ((-c / c.hypot(d).max(f64::MIN_POSITIVE), -d / c.hypot(d).max(f64::MIN_POSITIVE)), size)
            } else {
                ((a / unit, b / unit), f64::from(width.unwrap_or(500.0)) * unit)
            };
            let text = match self.replacements.iter_mut().rev().find_map(Option::as_mut) {
                Some(text) => std::mem::take(text),
                None => match glyph.as_unicode() {
                    Some(BfString::Char(c)) => c.to_string(),
                    Some(BfString::String(text)) => text,
                    None => UNKNOWN.to_owned(),
                },
            };
            self.glyphs.push(Glyph { origin: (origin.x, origin.y), direction, advance, size, text });
        }
        self.drop_repeated(start);
    }

    fn begin_marked_content(&mut self, _tag: &[u8], properties: Option<&Dict<'_>>) {
        let text = properties.and_then(|p| p.get::<PdfString<'_>>(b"ActualText"));
        self.replacements.push(text.map(|t| text_string(t.as_bytes())));
    }

    fn end_marked_content(&mut self) {
        self.replacements.pop();
    }

    fn draw_path(&mut self, _: &BezPath, _: DrawProps<'a>, _: &DrawMode) {}
    fn draw_rect(&mut self, _: &Rect, _: DrawProps<'a>, _: &DrawMode) {}
    fn push_clip_path(&mut self, _: &ClipPath) {}
    fn push_clip_rect(&mut self, _: &Rect) {}
    fn push_transparency_group(&mut self, _: f32, _: Option<SoftMask<'a>>, _: BlendMode) {}
    fn draw_image(&mut self, _: Image<'a, '_>, _: ImageDrawProps<'a>) {}
    fn pop_clip(&mut self) {}
    fn pop_transparency_group(&mut self) {}
}
