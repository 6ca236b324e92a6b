//! The log: events in one order, read back as they were written.

use std::collections::HashMap;
use std::sync::Arc;

use oriel_kernel::{
    Actor, AnyEvent, Effect, EventDecodeError, EventDecoder, EventId, OrganizationId, Position, Recorded, UserId,
};
use sea_orm::{ConnectionTrait, DbErr, QueryResult, Statement, Value};
use uuid::Uuid;

use crate::chain::{Envelope, chain};
use crate::db::Database;
use crate::keyring::{KeyError, Keyring};

/// Why the log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The database.
    #[error(transparent)]
    Database(#[from] DbErr),
    /// An event that this release does not know.
    #[error("event at position {position}: {source}")]
    Decode {
        /// Where.
        position: Position,
        /// What is wrong.
        source: EventDecodeError,
    },
    /// An event of an aggregate that this release does not know.
    #[error("event at position {position}: no aggregate has the stream {stream}")]
    Stream {
        /// Where.
        position: Position,
        /// The stored name.
        stream: String,
    },
    /// The keys.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// A payload as the log holds it.
#[derive(Clone, Copy, Debug)]
pub struct Sealed<'a> {
    /// Where.
    pub position: Position,
    /// Whose event it is.
    pub organization: OrganizationId,
    /// The aggregate's stream.
    pub stream: &'a str,
    /// The stored type.
    pub event_type: &'a str,
    /// The stored version.
    pub type_version: i16,
    /// The bytes.
    pub data: &'a [u8],
}

/// An organisation's chain, event after event.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Chain {
    /// The events that follow on each other.
    pub events: i64,
    /// Where the last of them is.
    pub position: Position,
    /// Its link.
    pub link: Vec<u8>,
    /// Where the first event is that does not follow.
    pub broken_at: Option<Position>,
}

impl Chain {
    /// Whether this row of the log is the next event; then it is the last one.
    fn follows(&mut self, row: &QueryResult) -> Result<bool, DbErr> {
        let (stream, event_type): (String, String) = (row.try_get("", "stream")?, row.try_get("", "type")?);
        let event = Envelope::stored(row, (&stream, &event_type))?;
        let link = chain(&self.link, &event, &row.try_get::<Vec<u8>>("", "data")?);
        let follows = event.sequence == self.events + 1 && row.try_get::<Vec<u8>>("", "hash")? == link;
        if follows {
            let position = Position::new(row.try_get("", "position")?);
            (self.events, self.position, self.link) = (event.sequence, position, link);
        }
        Ok(follows)
    }
}

/// By the place of an event that makes something anew: what happened before it to what it names.
pub(crate) type Histories = HashMap<Position, Vec<Arc<Recorded>>>;

/// Reads the log.
#[derive(Clone)]
pub struct Log {
    database: Database,
    keyring: Arc<Keyring>,
    decoders: Arc<HashMap<&'static str, EventDecoder>>,
}

const COLUMNS: &str = "position, id, organization_id, sequence, stream, subject_id, version, type, type_version, \
                       actor_kind, actor_id, at, correlation_id, causation_id, data";

impl Log {
    /// The log in this database.
    pub fn new(database: Database, keyring: Arc<Keyring>, decoders: &'static [EventDecoder]) -> Self {
        let decoders = decoders.iter().map(|decoder| (decoder.stream, *decoder)).collect();
        Self { database, keyring, decoders: Arc::new(decoders) }
    }

    pub(crate) fn database(&self) -> &Database {
        &self.database
    }

    /// The decoder of a stream's events.
    pub fn decoder(&self, stream: &str) -> Option<&EventDecoder> {
        self.decoders.get(stream)
    }

    /// The last position, and its event; `START` and nothing for an empty log.
    ///
    /// # Errors
    /// When the database is not there.
    pub async fn head(&self) -> Result<(Position, Option<EventId>), LogError> {
        let rows =
            self.database.query("SELECT position, id FROM events ORDER BY position DESC LIMIT 1", vec![]).await?;
        match rows.first() {
            None => Ok((Position::START, None)),
            Some(row) => {
                Ok((Position::new(row.try_get("", "position")?), Some(EventId::from_uuid(row.try_get("", "id")?))))
            }
        }
    }

    /// The events after a position, in order, at most `limit`.
    ///
    /// # Errors
    /// When the database is not there, or an event does not decode.
    pub async fn read(&self, after: Position, limit: u64) -> Result<Vec<Arc<Recorded>>, LogError> {
        let sql = format!("SELECT {COLUMNS} FROM events WHERE position > $1 ORDER BY position LIMIT $2");
        let values = vec![after.number().into(), i64::try_from(limit).unwrap_or(i64::MAX).into()];
        self.decode(self.database.query(&sql, values).await?).await
    }

    /// The same, through a transaction that is open already.
    pub(crate) async fn read_in(
        &self,
        connection: &impl ConnectionTrait,
        after: Position,
        limit: u64,
    ) -> Result<Vec<Arc<Recorded>>, LogError> {
        let sql = format!("SELECT {COLUMNS} FROM events WHERE position > $1 ORDER BY position LIMIT $2");
        let values: Vec<Value> = vec![after.number().into(), i64::try_from(limit).unwrap_or(i64::MAX).into()];
        let statement = Statement::from_sql_and_values(self.database.backend(), sql, values);
        self.decode(connection.query_all_raw(statement).await?).await
    }

    /// The events of one organisation after a position, in order, at most `limit`.
    ///
    /// # Errors
    /// See [`Log::read`].
    pub async fn read_organization(
        &self,
        organization: OrganizationId,
        after: Position,
        limit: u64,
    ) -> Result<Vec<Arc<Recorded>>, LogError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM events WHERE organization_id = $1 AND position > $2 ORDER BY position LIMIT $3"
        );
        let values =
            vec![organization.uuid().into(), after.number().into(), i64::try_from(limit).unwrap_or(i64::MAX).into()];
        self.decode(self.database.query(&sql, values).await?).await
    }

    /// All events of one aggregate, in order. Read where it was written, so that a replica's lag cannot hide one.
    ///
    /// # Errors
    /// See [`Log::read`].
    pub async fn read_subject(&self, subject: Uuid) -> Result<Vec<Arc<Recorded>>, LogError> {
        let sql = format!("SELECT {COLUMNS} FROM events WHERE subject_id = $1 ORDER BY version");
        let rows = self.database.query(&sql, vec![subject.into()]).await?;
        self.decode(rows).await
    }

    /// The events of one aggregate in an organisation, in order, at most `limit`.
    ///
    /// # Errors
    /// See [`Log::read`].
    pub async fn read_subject_of(
        &self,
        organization: OrganizationId,
        subject: Uuid,
        limit: u64,
    ) -> Result<Vec<Arc<Recorded>>, LogError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM events WHERE subject_id = $1 AND organization_id = $2 ORDER BY version LIMIT $3"
        );
        let values = vec![subject.into(), organization.uuid().into(), i64::try_from(limit).unwrap_or(i64::MAX).into()];
        self.decode(self.database.query(&sql, values).await?).await
    }

    /// The events after a position and up to another that one of these has caused, or that hold something about a
    /// person, in order.
    pub(crate) async fn read_of(
        &self,
        person: UserId,
        actors: &[Uuid],
        (after, to): (Position, Position),
    ) -> Result<Vec<Arc<Recorded>>, LogError> {
        let these = crate::bulk::in_ids(self.database.backend(), "actor_id", 3);
        let sql = |holds: &str| {
            format!(
                "SELECT {COLUMNS} FROM events WHERE position > $1 AND position <= $2 AND ({these} OR {holds} > 0) \
                 ORDER BY position"
            )
        };
        let (postgres, sqlite) =
            (sql("position(convert_to($4, 'UTF8') in data)"), sql("instr(data, CAST($4 AS BLOB))"));
        let values: Vec<Value> = vec![
            after.number().into(),
            to.number().into(),
            crate::bulk::ids_json(actors).into(),
            format!("\"of\":\"{person}\"").into(),
        ];
        let statement = self.database.statement(&postgres, &sqlite, values);
        self.decode(self.database.reader().query_all_raw(statement).await?).await
    }

    /// For each event that makes something anew, the events of those aggregates before it.
    pub(crate) async fn histories(
        &self,
        connection: &impl ConnectionTrait,
        events: &[Arc<Recorded>],
    ) -> Result<Histories, LogError> {
        let mut histories = Histories::new();
        for event in events {
            let Some(Effect::MakesAnew { subjects }) = event.event.effect() else { continue };
            let backend = self.database.backend();
            let these = crate::bulk::in_ids(backend, "subject_id", 1);
            let sql = format!("SELECT {COLUMNS} FROM events WHERE {these} AND position < $2 ORDER BY position");
            let values: Vec<Value> = vec![crate::bulk::ids_json(subjects).into(), event.position.number().into()];
            let rows = connection.query_all_raw(Statement::from_sql_and_values(backend, sql, values)).await?;
            histories.insert(event.position, self.decode(rows).await?);
        }
        Ok(histories)
    }

    /// The events with these ids, in no order; what is not there is left out.
    ///
    /// # Errors
    /// See [`Log::read`].
    pub async fn read_ids(&self, ids: &[Uuid]) -> Result<Vec<Arc<Recorded>>, LogError> {
        let sql =
            format!("SELECT {COLUMNS} FROM events WHERE {}", crate::bulk::in_ids(self.database.backend(), "id", 1));
        let rows = self.database.query(&sql, vec![crate::bulk::ids_json(ids).into()]).await?;
        self.decode(rows).await
    }

    /// Stored payloads in today's form, personal data opened where its key exists; the keys of all of them are one
    /// look-up. One that does not decode is an error by itself.
    ///
    /// # Errors
    /// When the database is not there.
    pub async fn unseal(&self, sealed: &[Sealed<'_>]) -> Result<Vec<Result<Box<dyn AnyEvent>, LogError>>, LogError> {
        let mut events: Vec<_> = sealed.iter().map(|payload| self.decode_sealed(payload)).collect();
        let with = |(payload, event): (&Sealed<'_>, _)| Some((payload.organization, Result::ok(event)?));
        let opened = sealed.iter().zip(events.iter_mut().map(Result::as_mut)).filter_map(with);
        self.keyring.unseal(opened.map(|(organization, event)| (organization, event.as_mut())).collect()).await?;
        Ok(events)
    }

    /// Whether the log is what was written: every position once, every organisation's sequence without a gap, and its
    /// hash chain without a break. Gives the first position where it is not. What personal data says, and whether this
    /// release knows the event, does not matter.
    ///
    /// # Errors
    /// When the database is not there.
    pub async fn verify(&self) -> Result<Option<Position>, LogError> {
        let sql = format!("SELECT {COLUMNS}, hash FROM events WHERE position > $1 ORDER BY position LIMIT 1000");
        let mut reached = Position::START;
        let mut chains: HashMap<Uuid, Chain> = HashMap::new();
        loop {
            let rows = self.database.query(&sql, vec![reached.number().into()]).await?;
            if rows.is_empty() {
                return Ok(None);
            }
            for row in &rows {
                reached = reached.next();
                let chain = chains.entry(row.try_get("", "organization_id")?).or_default();
                if row.try_get::<i64>("", "position")? != reached.number() || !chain.follows(row)? {
                    return Ok(Some(reached));
                }
            }
        }
    }

    /// The chain of one organisation, as far as it is without a gap or a break.
    ///
    /// # Errors
    /// When the database is not there.
    pub async fn verify_organization(&self, organization: OrganizationId) -> Result<Chain, LogError> {
        let sql = format!(
            "SELECT {COLUMNS}, hash FROM events WHERE organization_id = $1 AND position > $2 ORDER BY position LIMIT 1000"
        );
        let mut chain = Chain::default();
        loop {
            let values = vec![organization.uuid().into(), chain.position.number().into()];
            let rows = self.database.query(&sql, values).await?;
            if rows.is_empty() {
                return Ok(chain);
            }
            for row in &rows {
                if !chain.follows(row)? {
                    return Ok(Chain { broken_at: Some(Position::new(row.try_get("", "position")?)), ..chain });
                }
            }
        }
    }

    async fn decode(&self, rows: Vec<QueryResult>) -> Result<Vec<Arc<Recorded>>, LogError> {
        let mut events = Vec::with_capacity(rows.len());
        for row in &rows {
            let organization = OrganizationId::from_uuid(row.try_get("", "organization_id")?);
            events.push((organization, self.decode_payload(row)?));
        }
        let sealed = events.iter_mut().map(|(organization, event)| (*organization, event.as_mut()));
        self.keyring.unseal(sealed.collect()).await?;
        rows.iter().zip(events).map(|(row, (_, event))| Ok(Arc::new(recorded(row, event.into())?))).collect()
    }

    fn decode_payload(&self, row: &QueryResult) -> Result<Box<dyn AnyEvent>, LogError> {
        let (stream, event_type): (String, String) = (row.try_get("", "stream")?, row.try_get("", "type")?);
        self.decode_sealed(&Sealed {
            position: Position::new(row.try_get("", "position")?),
            organization: OrganizationId::from_uuid(row.try_get("", "organization_id")?),
            stream: &stream,
            event_type: &event_type,
            type_version: row.try_get("", "type_version")?,
            data: &row.try_get::<Vec<u8>>("", "data")?,
        })
    }

    fn decode_sealed(&self, sealed: &Sealed<'_>) -> Result<Box<dyn AnyEvent>, LogError> {
        let position = sealed.position;
        let unknown = || LogError::Stream { position, stream: sealed.stream.to_owned() };
        let decoder = self.decoders.get(sealed.stream).ok_or_else(unknown)?;
        (decoder.decode)(sealed.event_type, sealed.type_version, sealed.data)
            .map_err(|source| LogError::Decode { position, source })
    }
}

fn recorded(row: &QueryResult, event: Arc<dyn AnyEvent>) -> Result<Recorded, DbErr> {
    let (kind, actor): (i16, Uuid) = (row.try_get("", "actor_kind")?, row.try_get("", "actor_id")?);
    Ok(Recorded {
        position: Position::new(row.try_get("", "position")?),
        id: EventId::from_uuid(row.try_get("", "id")?),
        organization: OrganizationId::from_uuid(row.try_get("", "organization_id")?),
        sequence: row.try_get("", "sequence")?,
        subject: row.try_get("", "subject_id")?,
        version: row.try_get("", "version")?,
        actor: Actor::from_columns(kind, actor).ok_or_else(|| DbErr::Type(format!("no actor has the kind {kind}")))?,
        at: row.try_get("", "at")?,
        correlation: row.try_get("", "correlation_id")?,
        causation: row.try_get("", "causation_id")?,
        event,
    })
}
