//! From the glyphs of a PDF page, each at its place, to lines of words.
//!
//! A PDF says where a glyph stands, seldom where a word or a line ends: both are read from the distances. The
//! order of drawing is kept, because programs draw in reading order (columns stay columns). It must not know how
//! the glyphs were found.

use super::sink::TextSink;

/// A gap of this part of the font size separates two words: kerning stays below, the narrowest blank above.
const WORD_GAP: f64 = 0.11;
/// A step across the line of this part of the font size is still the same line (indices, exponents).
const SAME_LINE: f64 = 0.5;
/// A step across the line beyond this many font sizes starts a paragraph.
const PARAGRAPH: f64 = 1.75;

/// A glyph, its place on the page and the text it stands for.
#[derive(Clone, Debug)]
pub(super) struct Glyph {
    /// Where its baseline starts.
    pub(super) origin: (f64, f64),
    /// The direction of writing, of length one.
    pub(super) direction: (f64, f64),
    /// The distance to the next glyph along the direction.
    pub(super) advance: f64,
    /// The font size.
    pub(super) size: f64,
    /// What it stands for; empty when that is not known.
    pub(super) text: String,
}

impl Glyph {
    fn is_blank(&self) -> bool {
        self.text.chars().all(char::is_whitespace)
    }

    /// How far `next` starts along and across the line from here.
    fn step_to(&self, next: &Glyph) -> (f64, f64) {
        let (dx, dy) = (next.origin.0 - self.origin.0, next.origin.1 - self.origin.1);
        let (ux, uy) = self.direction;
        (dx * ux + dy * uy, dy * ux - dx * uy)
    }
}

/// Writes the glyphs of one page as lines.
pub(super) fn write_page(glyphs: &[Glyph], sink: &mut TextSink) {
    let mut start = 0;
    for at in 1..=glyphs.len() {
        let ended = match glyphs.get(at) {
            Some(next) => break_before(&glyphs[at - 1], next),
            None => Some(Break::Paragraph),
        };
        let Some(kind) = ended else { continue };
        write_line(&glyphs[start..at], sink);
        start = at;
        match kind {
            Break::Line => sink.line(),
            Break::Paragraph => sink.paragraph(),
        }
        if sink.is_full() {
            return;
        }
    }
}

enum Break {
    Line,
    Paragraph,
}

fn break_before(last: &Glyph, next: &Glyph) -> Option<Break> {
    let turned = last.direction.0 * next.direction.0 + last.direction.1 * next.direction.1 < 0.9;
    if turned {
        return Some(Break::Paragraph);
    }
    let (along, across) = last.step_to(next);
    let size = last.size.max(next.size);
    if across.abs() < SAME_LINE * size {
        let forward = along - last.advance > -SAME_LINE * size;
        let leftward = (is_rtl(&last.text) || is_rtl(&next.text) || next.is_blank() || last.is_blank())
            && along < 0.0
            && -along - next.advance < 2.0 * size;
        return if forward || leftward { None } else { Some(Break::Line) };
    }
    // Down to the next line; up is another column, another box.
    if across < 0.0 && -across < PARAGRAPH * size { Some(Break::Line) } else { Some(Break::Paragraph) }
}

fn write_line(glyphs: &[Glyph], sink: &mut TextSink) {
    if glyphs.iter().any(|g| is_rtl(&g.text)) {
        return write_rtl_line(glyphs, sink);
    }
    let mut last: Option<&Glyph> = None;
    for glyph in glyphs {
        match last {
            None => {
                let continues = glyph.text.chars().next().is_some_and(char::is_lowercase);
                if continues && sink.ends_divided() {
                    sink.rejoin();
                }
            }
            Some(last) if separates(last, glyph) => sink.space(),
            Some(_) => {}
        }
        sink.words(&glyph.text);
        last = Some(glyph);
    }
}

fn separates(last: &Glyph, next: &Glyph) -> bool {
    let (along, _) = last.step_to(next);
    along - last.advance > WORD_GAP * last.size.min(next.size)
}

/// Hebrew and Arabic: the places tell what is seen from left to right, the text is wanted as it is read.
fn write_rtl_line(glyphs: &[Glyph], sink: &mut TextSink) {
    let Some(first) = glyphs.first() else { return };
    let mut seen: Vec<(f64, &Glyph)> = glyphs.iter().map(|g| (first.step_to(g).0, g)).collect();
    seen.sort_by(|a, b| a.0.total_cmp(&b.0));
    // Runs of one direction, each in its own reading order, the runs from right to left.
    let mut runs: Vec<(bool, Vec<String>)> = Vec::new();
    let mut last: Option<&Glyph> = None;
    for (_, glyph) in seen {
        let apart = last.is_some_and(|last| separates(last, glyph));
        last = Some(glyph);
        let neutral = !glyph.text.chars().any(char::is_alphanumeric);
        let rtl = match runs.last() {
            Some((before, _)) if neutral => *before,
            _ => !glyph.text.chars().any(|c| c.is_alphanumeric() && !is_rtl_char(c)),
        };
        match runs.last_mut() {
            Some((before, run)) if *before == rtl => {
                if apart {
                    run.push(" ".to_owned());
                }
                run.push(glyph.text.clone());
            }
            _ => {
                let mut run = Vec::new();
                if apart {
                    run.push(" ".to_owned());
                }
                run.push(glyph.text.clone());
                runs.push((rtl, run));
            }
        }
    }
    for (rtl, run) in runs.iter().rev() {
        if *rtl {
            run.iter().rev().for_each(|text| sink.words(text));
        } else {
            // A blank before it on the page follows it when read from the right.
            let blanks = run.iter().take_while(|t| t.trim().is_empty()).count();
            run[blanks..].iter().for_each(|text| sink.words(text));
            if blanks > 0 {
                sink.space();
            }
        }
    }
}

fn is_rtl(text: &str) -> bool {
    text.chars().any(is_rtl_char)
}

fn is_rtl_char(c: char) -> bool {
    matches!(c, '\u{590}'..='\u{8ff}' | '\u{fb1d}'..='\u{fdff}' | '\u{fe70}'..='\u{fefc}')
        // Digits are written from left to right in these scripts too.
        && !matches!(c, '\u{660}'..='\u{669}' | '\u{6f0}'..='\u{6f9}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str, x: f64, y: f64, step: f64) -> Vec<Glyph> {
        text.chars()
            .enumerate()
            .map(|(i, c)| Glyph {
                origin: (x + step * i as f64, y),
                direction: (1.0, 0.0),
                advance: step.abs(),
                size: 10.0,
                text: c.to_string(),
            })
            .collect()
    }

    fn written(parts: &[Vec<Glyph>]) -> String {
        let mut sink = TextSink::new(10_000);
        write_page(&parts.concat(), &mut sink);
        sink.finish().0
    }

    #[test]
    fn distances_make_words_lines_and_paragraphs() {
        let page = [
            row("One", 0.0, 100.0, 5.0),
            row("two", 17.0, 100.0, 5.0),
            row("2", 32.0, 103.0, 3.0),
            row("next", 0.0, 88.0, 5.0),
            row("Far", 0.0, 50.0, 5.0),
        ];
        assert_eq!(written(&page), "One two2\nnext\n\nFar");
    }

    #[test]
    fn kerning_is_not_a_blank_and_a_divided_word_is_one() {
        let page = [row("AV", 0.0, 100.0, 5.0), row("Geo-", 11.0, 100.0, 5.0), row("metrie", 0.0, 88.0, 5.0)];
        assert_eq!(written(&page), "AVGeometrie");
        let page = [row("Schwarz-", 0.0, 100.0, 5.0), row("Weiß", 0.0, 88.0, 5.0)];
        assert_eq!(written(&page), "Schwarz-\nWeiß");
    }

    #[test]
    fn hebrew_is_read_from_the_right() {
        // On the page, from the left: "45 םולש"; read: "שלום 45".
        let page = [row("45", 0.0, 100.0, 5.0), row("םולש", 13.0, 100.0, 5.0)];
        assert_eq!(written(&page), "שלום 45");
    }
}
