//! The checkpoints in the object store, which are its trees: of hibernated runs and of
//! snapshots; and taking over the hibernated runs of other nodes.

use std::{collections::HashSet, time::Duration};

use isorun_api::RunId;
use isorun_blobs::TreeId;

use super::{super::StoreError, Postgres, column, int, number, params, parsed};

/// The time between two collections of garbage, of all nodes together.
const COLLECTION_INTERVAL: Duration = Duration::from_secs(3600);

/// What a node copies from its disk to the object store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Upload {
    Run { id: RunId, generation: u64 },
    Snapshot { id: String },
    Image { digest: String },
}

impl Postgres {
    /// Returns up to `limit` checkpoints of this node that are not in the object store yet, and
    /// their tenants, the oldest first.
    pub async fn pending_uploads(&self, limit: u32) -> Result<Vec<(Upload, String)>, StoreError> {
        let (node, _) = self.node()?;
        let rows = self
            .query(
                "SELECT id, tenant, generation, TRUE AS is_run, created_at FROM runs
                 WHERE node = $1 AND destroyed_at IS NULL AND status = 'hibernated'
                 AND generation > 0 AND tree_generation IS DISTINCT FROM generation
                 UNION ALL SELECT id, tenant, 0, FALSE, created_at FROM snapshots
                 WHERE node = $1 AND tree IS NULL
                 ORDER BY created_at, id LIMIT $2",
                params![node, i64::from(limit)],
            )
            .await?;
        rows.iter()
            .map(|row| {
                let upload = if column(row, "is_run")? {
                    let id = parsed(row, "id", |text| text.parse().ok())?;
                    Upload::Run { id, generation: number(row, "generation")? }
                } else {
                    Upload::Snapshot { id: column(row, "id")? }
                };
                Ok((upload, column(row, "tenant")?))
            })
            .collect()
    }

    /// Records the tree of an upload. Returns false if it is no longer needed.
    pub async fn record_tree(&self, upload: &Upload, tree: TreeId) -> Result<bool, StoreError> {
        let recorded = match upload {
            Upload::Run { id, generation } => {
                self.change(
                    "UPDATE runs SET tree = $4, tree_generation = $5 FROM fence
                     WHERE runs.id = $3 AND runs.node = fence.id AND destroyed_at IS NULL
                     AND status = 'hibernated' AND generation = $5 RETURNING generation AS result",
                    params![id.to_string(), tree.to_string(), int(*generation)],
                )
                .await?
            }
            Upload::Snapshot { id } => {
                self.change(
                    "UPDATE snapshots SET tree = $4 FROM fence
                     WHERE snapshots.id = $3 AND snapshots.node = fence.id
                     RETURNING created_at AS result",
                    params![id.clone(), tree.to_string()],
                )
                .await?
            }
            Upload::Image { digest } => {
                self.change(
                    "INSERT INTO image_copies (digest, tree) SELECT $3, $4 FROM fence
                     ON CONFLICT DO NOTHING RETURNING 0::BIGINT AS result",
                    params![digest.clone(), tree.to_string()],
                )
                .await?
            }
        };
        Ok(recorded.is_some())
    }

    /// Returns the tree of a run's latest checkpoint, if it is in the object store.
    pub async fn run_tree(&self, id: &RunId) -> Result<Option<TreeId>, StoreError> {
        let statement = "SELECT tree FROM runs WHERE id = $1 AND tree_generation = generation";
        self.tree(statement, id.as_str()).await
    }

    /// Returns the tree of a snapshot, if it is in the object store.
    pub async fn snapshot_tree(&self, id: &str) -> Result<Option<TreeId>, StoreError> {
        self.tree("SELECT tree FROM snapshots WHERE id = $1 AND tree IS NOT NULL", id).await
    }

    /// Returns the tree that a statement selects for an id.
    pub(super) async fn tree(
        &self,
        statement: &str,
        id: &str,
    ) -> Result<Option<TreeId>, StoreError> {
        let found = self.query_opt(statement, params![id.to_owned()]).await?;
        found.map(|row| parsed(&row, "tree", |text| text.parse().ok())).transpose()
    }

    /// Makes a hibernated run of another node a run of this one, which has a copy of this tree.
    /// Returns false unless the tree is its latest checkpoint, and its node is dead, draining, or
    /// without a lease, and has not begun to resume it: then that node changes the run no more.
    pub async fn claim_run(&self, id: &RunId, tree: TreeId) -> Result<bool, StoreError> {
        let claimed = self
            .change(
                "UPDATE runs SET node = fence.id, resuming = FALSE FROM fence, nodes AS owner
                 WHERE runs.id = $3 AND runs.tree = $4 AND owner.id = runs.node AND runs.node <> fence.id
                 AND runs.status = 'hibernated' AND runs.destroyed_at IS NULL
                 AND runs.tree_generation = runs.generation
                 AND (owner.state <> 'up' OR owner.lease_until < now())
                 AND (NOT runs.resuming OR owner.state IN ('dead', 'removed'))
                 RETURNING runs.generation AS result",
                params![id.to_string(), tree.to_string()],
            )
            .await?;
        Ok(claimed.is_some())
    }

    /// Reports whether it is the turn of this node to collect garbage. It is not, for any
    /// node, for an hour afterwards.
    pub async fn take_collection_turn(&self) -> Result<bool, StoreError> {
        self.take_turn("collected_at", COLLECTION_INTERVAL).await
    }

    /// Returns all trees that the database refers to.
    pub async fn referenced_trees(&self) -> Result<HashSet<TreeId>, StoreError> {
        let rows = self
            .query(
                "SELECT tree FROM runs
                 WHERE destroyed_at IS NULL AND tree_generation = generation
                 UNION SELECT tree FROM snapshots WHERE tree IS NOT NULL
                 UNION SELECT tree FROM image_copies",
                params![],
            )
            .await?;
        rows.iter().map(|row| parsed(row, "tree", |text| text.parse().ok())).collect()
    }
}
