//! The reader of a request, and the one that signing in puts in its place.
//!
//! A request has one viewer from its beginning, or none. Signing in, or switching to another organisation, makes
//! another one inside the request, whose answer is to show what that viewer sees.

use std::sync::{Arc, OnceLock};

use async_graphql::{Context, QueryPathSegment};
use oriel_engine::read::{PathPart, Reader};

/// See the module. Cheap to clone; the clones are one.
#[derive(Clone, Default)]
pub struct Readers(Arc<(OnceLock<Reader>, OnceLock<Reader>)>);

impl Readers {
    /// For somebody who is signed in from the beginning.
    pub fn of(reader: Reader) -> Self {
        let this = Self::default();
        this.become_viewer(reader);
        this
    }

    /// From now on this viewer reads. Happens at most once after the beginning; a further time, after another change
    /// in the same request, who reads stays who they are and looks again.
    pub fn become_viewer(&self, reader: Reader) {
        let Err(reader) = self.0.0.set(reader) else { return };
        if self.0.1.set(reader).is_err()
            && let Some(current) = self.current()
        {
            current.forget();
        }
    }

    /// Who reads now.
    pub fn current(&self) -> Option<&Reader> {
        self.0.1.get().or_else(|| self.0.0.get())
    }
}

/// The reader of this request; `None` when nobody is signed in.
pub fn current_reader(cx: &Context<'_>) -> Option<Reader> {
    borrowed(cx).cloned()
}

pub(crate) fn borrowed<'a>(cx: &Context<'a>) -> Option<&'a Reader> {
    cx.data_opt::<Readers>().and_then(Readers::current).or_else(|| cx.data_opt::<Reader>())
}

/// The value of the field that is being resolved is another one each time (a signed URL, a duration): the answer is
/// not kept, and a live query sends no new one because of it alone.
pub fn passing(cx: &Context<'_>) {
    let (Some(reader), Some(node)) = (borrowed(cx), &cx.path_node) else { return };
    let part = |segment: &QueryPathSegment<'_>| match segment {
        QueryPathSegment::Index(index) => PathPart::Index(*index),
        QueryPathSegment::Name(name) => PathPart::Key((*name).to_owned()),
    };
    let mut place: Vec<PathPart> = node.parents().map(|node| part(&node.segment)).collect();
    place.reverse();
    place.push(part(&node.segment));
    reader.recorder().passing(place);
}
