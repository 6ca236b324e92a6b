//! The fields of an entry in the index, and the tokenizer that makes the organisation part of every word.

use chrono::{DateTime, Utc};
use tantivy::schema::{FAST, Field, IndexRecordOption, STORED, STRING, Schema, TextFieldIndexing, TextOptions};
use tantivy::tokenizer::{TextAnalyzer, Token, TokenStream, Tokenizer, TokenizerManager};
use tantivy::{TantivyDocument, Term};
use uuid::Uuid;

use super::super::{Entry, MAX_BODY_BYTES, analyze};

/// The fields by their purpose.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields {
    /// The global id, for replacing and removing.
    pub id: Field,
    /// The organisation, the outer wall of every read.
    pub organization: Field,
    pub project: Field,
    pub kind: Field,
    pub tag: Field,
    pub media_type: Field,
    /// The whole title as one word.
    pub title_value: Field,
    /// Whole tags and keywords as one word each.
    pub label_value: Field,
    /// Folded words with positions: title, labels (tags and keywords), body.
    pub words: [Field; 3],
    /// Their stems.
    pub stems: [Field; 3],
    /// What is shown, as it was given.
    pub title: Field,
    pub body: Field,
    pub keyword: Field,
}

/// How much a match counts: title, labels, body.
pub(super) const WEIGHTS: [f32; 3] = [4.0, 2.5, 1.0];

/// Names of the columns that the loop over matches reads.
pub(super) const UPDATED: &str = "updated";
pub(super) const TIE: &str = "tie";
pub(super) const KIND: &str = "kind";
pub(super) const TAG: &str = "tag";
pub(super) const PROJECT: &str = "project";
pub(super) const MEDIA_TYPE: &str = "media_type";

const WORDS: &str = "words";
const STEMS: &str = "stems";

impl Fields {
    /// Documents must be given ids in the order of the calls: a changed order is another [`super::files::FORMAT`].
    pub fn schema() -> (Schema, Self) {
        let mut schema = Schema::builder();
        let text = |tokenizer, index| {
            TextOptions::default()
                .set_indexing_options(TextFieldIndexing::default().set_tokenizer(tokenizer).set_index_option(index))
        };
        let words = || text(WORDS, IndexRecordOption::WithFreqsAndPositions);
        let stems = || text(STEMS, IndexRecordOption::WithFreqs);
        let stored = || TextOptions::default().set_stored();
        let fields = Self {
            id: schema.add_text_field("id", STRING | STORED),
            organization: schema.add_text_field("organization", STRING),
            project: schema.add_text_field(PROJECT, STRING | FAST),
            kind: schema.add_text_field(KIND, STRING | FAST | STORED),
            tag: schema.add_text_field(TAG, STRING | FAST | STORED),
            media_type: schema.add_text_field(MEDIA_TYPE, STRING | FAST),
            title_value: schema.add_text_field("title_value", STRING),
            label_value: schema.add_text_field("label_value", STRING),
            words: ["title_words", "label_words", "body_words"].map(|name| schema.add_text_field(name, words())),
            stems: ["title_stems", "label_stems", "body_stems"].map(|name| schema.add_text_field(name, stems())),
            title: schema.add_text_field("title", stored()),
            body: schema.add_text_field("body", stored()),
            keyword: schema.add_text_field("keyword", stored()),
        };
        schema.add_i64_field(UPDATED, FAST);
        schema.add_u64_field(TIE, FAST);
        (schema.build(), fields)
    }

    pub fn tokenizers() -> TokenizerManager {
        let tokenizers = TokenizerManager::default();
        tokenizers.register(WORDS, TextAnalyzer::from(Owned::new(analyze::plain())));
        tokenizers.register(STEMS, TextAnalyzer::from(Owned::new(analyze::stemmed())));
        tokenizers
    }

    pub fn document(&self, schema: &Schema, entry: &Entry) -> Result<TantivyDocument, tantivy::TantivyError> {
        let owner = Owner::new(entry.organization);
        let body = &entry.body[..entry.body.floor_char_boundary(MAX_BODY_BYTES)];
        let mut document = TantivyDocument::new();
        document.add_text(self.id, &entry.id);
        document.add_text(self.organization, owner.as_str());
        document.add_text(self.kind, &entry.kind);
        if let Some(project) = entry.project {
            document.add_text(self.project, project.to_string());
        }
        if let Some(media_type) = &entry.media_type {
            document.add_text(self.media_type, media_type);
        }
        let mut tags = entry.tags.clone();
        tags.sort_unstable();
        tags.dedup();
        for tag in &tags {
            document.add_text(self.tag, tag);
        }
        for keyword in &entry.keywords {
            document.add_text(self.keyword, keyword);
        }
        for label in tags.iter().chain(&entry.keywords) {
            document.add_text(self.words[1], owner.with(label));
            document.add_text(self.stems[1], owner.with(label));
            document.add_text(self.label_value, owner.with(&analyze::fold(label)));
        }
        document.add_text(self.title_value, owner.with(&analyze::fold(&entry.title)));
        for (at, text) in [(0, entry.title.as_str()), (2, body)] {
            let text = owner.with(text);
            document.add_text(self.words[at], &text);
            document.add_text(self.stems[at], text);
        }
        document.add_text(self.title, &entry.title);
        document.add_text(self.body, body);
        document.add_i64(schema.get_field(UPDATED)?, micros(entry.updated_at));
        document.add_u64(schema.get_field(TIE)?, tie(&entry.id));
        Ok(document)
    }
}

fn micros(at: DateTime<Utc>) -> i64 {
    at.timestamp_micros()
}

/// Orders entries that are equal in everything else, the same way in every generation.
fn tie(id: &str) -> u64 {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, id.as_bytes());
    digest.as_ref().iter().take(8).fold(0, |tie, byte| tie << 8 | u64::from(*byte))
}

/// The organisation as it stands before each of its words: always [`Owner::LENGTH`] characters, so that no
/// organisation's words begin with another's.
#[derive(Debug, Clone)]
pub(super) struct Owner(String);

impl Owner {
    /// 16 bytes in base 64.
    const LENGTH: usize = 22;

    pub fn new(organization: Uuid) -> Self {
        Self(data_encoding::BASE64URL_NOPAD.encode(organization.as_bytes()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn with(&self, text: &str) -> String {
        let mut owned = String::with_capacity(Self::LENGTH + text.len());
        owned.push_str(&self.0);
        owned.push_str(text);
        owned
    }

    pub fn term(&self, field: Field, word: &str) -> Term {
        Term::from_field_text(field, &self.with(word))
    }

    /// The word without its owner.
    pub fn strip<'a>(&self, term: &'a [u8]) -> Option<&'a str> {
        std::str::from_utf8(term.strip_prefix(self.0.as_bytes())?).ok()
    }
}

/// Cuts `<owner><text>` into words that each begin with the owner.
#[derive(Clone)]
struct Owned {
    inner: TextAnalyzer,
    token: Token,
}

impl Owned {
    fn new(inner: TextAnalyzer) -> Self {
        Self { inner, token: Token::default() }
    }
}

impl Tokenizer for Owned {
    type TokenStream<'a> = OwnedStream<'a>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> OwnedStream<'a> {
        // A text without an owner has no words at all.
        let (owner, text) = text.split_at_checked(Owner::LENGTH).unwrap_or_default();
        self.token.reset();
        OwnedStream { owner, inner: Box::new(self.inner.token_stream(text)), token: &mut self.token }
    }
}

struct OwnedStream<'a> {
    owner: &'a str,
    inner: Box<dyn TokenStream + 'a>,
    token: &'a mut Token,
}

impl TokenStream for OwnedStream<'_> {
    fn advance(&mut self) -> bool {
        if !self.inner.advance() {
            return false;
        }
        let inner = self.inner.token();
        self.token.text.clear();
        self.token.text.push_str(self.owner);
        self.token.text.push_str(&inner.text);
        self.token.position = inner.position;
        self.token.offset_from = inner.offset_from + self.owner.len();
        self.token.offset_to = inner.offset_to + self.owner.len();
        true
    }

    fn token(&self) -> &Token {
        self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        self.token
    }
}
