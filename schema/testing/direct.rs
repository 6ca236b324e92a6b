//! The schema alone, as the endpoint executes it: the viewer resolved, a reader with its recorder, the blobs and the
//! log behind the fields. For tests of what executing costs and who may call, which no cache may answer.

use std::sync::Arc;

use async_graphql::Request;
use oriel_engine::read::{Reader, Recorder};
use oriel_read_models::Readers;
use oriel_read_models::documents::Contents;
use oriel_read_models::events::Payloads;
use oriel_read_models::viewer::resolve;
use uuid::Uuid;

use super::Bed;
use crate::OrielSchema;
use crate::contents::{BlobContents, LogPayloads};
use crate::services::{Meta, Services};
use crate::uploads::Uploads;

/// The schema over the services of this installation.
pub fn schema(bed: &Bed) -> OrielSchema {
    crate::schema().data(Arc::clone(bed.endpoint.services())).finish()
}

/// The request with what its resolvers need, and the recorder of what it reads.
pub async fn prepared(
    bed: &Bed,
    token: Option<&str>,
    uploads: Uploads,
    request: impl Into<Request>,
) -> (Request, Arc<Recorder>) {
    let services: &Arc<Services> = bed.endpoint.services();
    let (recorder, now) = (Arc::new(Recorder::default()), services.engine.now());
    let credential = token.map(|token| bed.endpoint.authenticate(token).unwrap().0);
    let (mut viewer, mut readers) = (None, Readers::default());
    if let Some(credential) = credential {
        let connection = services.engine.database().reader().clone();
        let row = resolve(&connection, credential, now).await.unwrap().unwrap();
        readers = Readers::of(Reader::new(connection, Arc::clone(&row.viewer), Arc::clone(&recorder)));
        viewer = Some(row.viewer);
    }
    let meta = Meta {
        request: Uuid::new_v4(),
        viewer,
        credential,
        token_ends: None,
        ip: None,
        user_agent: None,
        uploads,
        maintenance: false,
    };
    let contents: Arc<dyn Contents> = Arc::new(BlobContents::new(Arc::clone(services)));
    let payloads: Arc<dyn Payloads> = Arc::new(LogPayloads::new(Arc::clone(services)));
    let request = request.into().data(meta).data(readers).data(Arc::clone(&recorder)).data(contents).data(payloads);
    (request, recorder)
}
