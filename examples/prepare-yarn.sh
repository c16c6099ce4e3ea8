#!/bin/bash
# A log prepared on YARN: examples/prepare-yarn.sh hdfs://logs/2026 hdfs://prepared/2026 [--k-core 5 ...]
# Here: farzi[spark], Java 17, and HADOOP_CONF_DIR, which says where the cluster is. The cluster's
# machines need Java 17 (JAVA_17 names it there) and nothing of farzi: Spark's jars are sent to them.
set -euo pipefail

source_address="$1"
out="$2"
shift 2
: "${HADOOP_CONF_DIR:?names the folder with core-site.xml and yarn-site.xml}"
java_there="${JAVA_17:-/usr/lib/jvm/java-17-openjdk-amd64}"

# The driver stays on this machine: it holds some bytes a user, and no events.
export PYSPARK_SUBMIT_ARGS="--master yarn --deploy-mode client --name farzi-prepare \
    --driver-memory 4g --num-executors 16 --executor-cores 4 --executor-memory 12g \
    --conf spark.executorEnv.JAVA_HOME=$java_there \
    --conf spark.sql.shuffle.partitions=512 pyspark-shell"

exec farzi prepare "$source_address" --engine spark --out "$out" "$@"
