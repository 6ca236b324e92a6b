//! The table of a read model: an `id`, its columns, its indexes; and the migration of a module that makes such tables.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::uuid;
use sea_orm_migration::sea_orm::DbBackend;

/// The table of a read model, to be made.
pub(crate) struct ReadModel {
    name: &'static str,
    table: TableCreateStatement,
    indexes: Vec<IndexCreateStatement>,
    words: &'static [&'static str],
}

impl ReadModel {
    /// A table with the primary key `id`.
    pub(crate) fn new(name: &'static str, columns: impl IntoIterator<Item = ColumnDef>) -> Self {
        let mut table = Table::create().table(Alias::new(name)).col(uuid("id").primary_key()).to_owned();
        for column in columns {
            table.col(column);
        }
        Self { name, table, indexes: Vec::new(), words: &[] }
    }

    /// An index on these columns, named after them.
    pub(crate) fn index(mut self, columns: &[&str]) -> Self {
        self.indexes.push(self.index_on(columns));
        self
    }

    /// An index on these columns, whose values no two rows share.
    pub(crate) fn unique(mut self, columns: &[&str]) -> Self {
        let mut index = self.index_on(columns);
        self.indexes.push(index.unique().to_owned());
        self
    }

    /// For each column an index behind these first ones, with the id at its end: it answers the filter by that column
    /// and gives its order with ties broken, within the tenant (or the collection) that the first columns name.
    pub(crate) fn within(self, first: &[&str], columns: &[&str]) -> Self {
        columns.iter().fold(self, |this, column| this.index(&[first, &[column, "id"]].concat()))
    }

    /// Columns that hold a list of words: each has an inverted index on PostgreSQL. SQLite has none, and looks through
    /// the rows of the tenant.
    pub(crate) fn words(mut self, columns: &'static [&'static str]) -> Self {
        self.words = columns;
        self
    }

    /// Makes the table and its indexes.
    pub(crate) async fn create(self, manager: &SchemaManager<'_>) -> Result<(), DbErr> {
        manager.create_table(self.table.clone()).await?;
        if manager.get_database_backend() == DbBackend::Postgres {
            for column in self.words {
                let mut index = self.index_on(&[column]);
                manager.create_index(index.full_text().to_owned()).await?;
            }
        }
        for index in self.indexes {
            manager.create_index(index).await?;
        }
        Ok(())
    }

    fn index_on(&self, columns: &[&str]) -> IndexCreateStatement {
        let mut index = Index::create();
        index.name(format!("ix_{}_{}", self.name, columns.join("_"))).table(Alias::new(self.name));
        for column in columns {
            index.col(Alias::new(*column));
        }
        index.to_owned()
    }
}

/// The migration of a module, named after its file: it makes the tables of these read models.
macro_rules! migration {
    ($($read_model:expr),+ $(,)?) => {
        use sea_orm_migration::prelude::*;

        /// See the module.
        #[derive(DeriveMigrationName)]
        pub struct Migration;

        #[async_trait::async_trait]
        impl MigrationTrait for Migration {
            async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
                $($read_model.create(manager).await?;)+
                Ok(())
            }
        }
    };
}
pub(crate) use migration;
