{{/* nestvec.yaml of a role, and cluster.yaml of `nestvec up`. */}}

{{/* Told the root and a role. */}}
{{- define "nestvec.store" -}}
{{- $redis := .root.Values.redis -}}
{{- $url := $redis.url -}}
{{- if $redis.bundled -}}
{{- $url = printf "redis://%s-redis:6379" (include "nestvec.fullname" .root) -}}
{{- end -}}
{{- $store := dict "url" $url -}}
{{- if or $redis.bundled $redis.passwordSecret -}}
{{- $_ := set $store "user" (ternary (printf "%s-%s" $redis.user (include "nestvec.storeRole" .)) $redis.user $redis.userPerRole) -}}
{{- $_ := set $store "password_file" "/etc/nestvec/redis/password" -}}
{{- end -}}
{{- if $redis.sentinelUser -}}
{{- $_ := set $store "sentinel_user" $redis.sentinelUser -}}
{{- $_ := set $store "sentinel_password_file" "/etc/nestvec/redis/sentinel-password" -}}
{{- end -}}
{{- if $redis.tlsSecret -}}
{{- $tls := dict "ca_file" "/etc/nestvec/redis-tls/ca.crt" -}}
{{- if $redis.tlsClientCertificate -}}
{{- $_ := set $tls "cert_file" "/etc/nestvec/redis-tls/tls.crt" -}}
{{- $_ := set $tls "key_file" "/etc/nestvec/redis-tls/tls.key" -}}
{{- end -}}
{{- $_ := set $store "tls" $tls -}}
{{- end -}}
{{- toYaml (mergeOverwrite $store (deepCopy $redis.config)) -}}
{{- end -}}

{{- define "nestvec.snapshots" -}}
{{- if eq .Values.coarse.snapshots.kind "url" -}}{{ .Values.coarse.snapshots.url }}
{{- else if ne .Values.coarse.snapshots.kind "none" -}}/var/lib/nestvec/snapshots{{- end -}}
{{- end -}}

{{/* The encoder section: the model itself where it runs, else the way to it. */}}
{{- define "nestvec.encoder" -}}
{{- $encoder := deepCopy .root.Values.encoder.model -}}
{{- if and (eq .root.Values.encoder.in "cluster") (ne .role "encoder") -}}
{{- $encoder = dict "from_cluster" true -}}
{{- end -}}
{{- toYaml $encoder -}}
{{- end -}}

{{/* Section security of a role. Processes know each other by certificate on every port. */}}
{{- define "nestvec.security" -}}
{{- $root := .root -}}
{{- $values := $root.Values.security -}}
{{- if not $values.insecure -}}
{{- $tls := dict "cert_file" "/etc/nestvec/tls/tls.crt" "key_file" "/etc/nestvec/tls/tls.key" "ca_file" "/etc/nestvec/tls/ca.crt" "server_name" (include "nestvec.serverName" $root) -}}
{{- if or (ne .role "query") $values.clientCertificates -}}
{{- $_ := set $tls "client_ca_file" "/etc/nestvec/tls/ca.crt" -}}
{{- with $values.tls.crlFile -}}{{- $_ := set $tls "crl_file" . -}}{{- end -}}
{{- with $values.tls.deniedFile -}}{{- $_ := set $tls "denied_file" . -}}{{- end -}}
{{- end -}}
{{- $own := dict "certificates" (list (include "nestvec.serverName" $root)) "verbs" (list "internal") "collections" (list "*") -}}
{{- $client := dict "certificates" (list (include "nestvec.clientName" $root)) "verbs" (list "search" "ingest" "admin") "collections" (list "*") -}}
{{- $security := dict "tls" $tls "grants" (list $own) -}}
{{- if eq .role "query" -}}
{{- $_ := set $security "grants" (concat (list $own $client) $values.grants) -}}
{{- with $values.tokens -}}{{- $_ := set $security "tokens" . -}}{{- end -}}
{{- with $values.quotas -}}{{- $_ := set $security "quotas" . -}}{{- end -}}
{{- with $values.grantsFile -}}{{- $_ := set $security "grants_file" . -}}{{- end -}}
{{- end -}}
{{- toYaml $security -}}
{{- end -}}
{{- end -}}

{{/* layout: of a coarse worker. */}}
{{- define "nestvec.settings" -}}
{{- $root := .root -}}
{{- $values := $root.Values -}}
{{- $own := include "nestvec.valuesOf" . | fromYaml -}}
{{- $name := include "nestvec.fullname" $root -}}
{{- $settings := dict
  "server" (dict "host" $values.listen "port" 7700 "health_port" 7701 "metrics_port" 9090 "drain_s" $values.drainSeconds "insecure" $values.security.insecure)
  "store" (include "nestvec.store" . | fromYaml)
  "encoder" (include "nestvec.encoder" . | fromYaml)
  "cluster" (dict "name" $values.clusterName "heartbeat_s" $values.heartbeatSeconds)
  "log" (dict "format" "json")
-}}
{{- with include "nestvec.security" . | fromYaml -}}{{- $_ := set $settings "security" . -}}{{- end -}}
{{- with include "nestvec.telemetry" $root | fromYaml -}}{{- $_ := set $settings "telemetry" . -}}{{- end -}}
{{- if eq .role "coarse" -}}
{{- $coarse := dict "pool" .layout.pool "shards" .layout.shards "shard" .shard "use_gpu" (gt (int $values.coarse.gpus) 0) "snapshot_every_s" $values.coarse.snapshots.everySeconds -}}
{{- with include "nestvec.snapshots" $root -}}{{- $_ := set $coarse "snapshots" . -}}{{- end -}}
{{- $_ := set $settings "coarse" $coarse -}}
{{- end -}}
{{- if and (eq .role "query") $values.rerank.enabled -}}
{{- $_ := set $settings "rerank" (dict "address" (printf "%s-rerank:7700" $name)) -}}
{{- end -}}
{{- if and (has .role (list "query" "ingest")) $values.crossEncoder.enabled -}}
{{- $_ := set $settings "cross_encoder" (dict "address" (printf "%s-cross:7700" $name)) -}}
{{- end -}}
{{- if eq .role "cross" -}}
{{- $_ := set $settings "cross_encoder" (deepCopy $values.crossEncoder.model) -}}
{{- end -}}
{{- if $values.regions.here -}}
{{- $_ := set $settings "regions" (dict "here" $values.regions.here "map" $values.regions.map "collections" $values.regions.collections) -}}
{{- end -}}
{{- $shared := deepCopy $values.config -}}
{{- if has .role (list "coarse" "encoder" "rerank") -}}
{{- /* They know no classes, and a class may name a cross-encoder that they have not. */ -}}
{{- $shared = omit $shared "classes" "live_recall" -}}
{{- end -}}
{{- toYaml (mergeOverwrite $settings $shared (deepCopy $own.config)) -}}
{{- end -}}

{{- define "nestvec.collections" -}}
{{- $asked := dict -}}
{{- range .Values.coarse.layouts -}}
{{- $name := ternary "*" .pool (eq .pool "default") -}}
{{- if not (hasKey $asked $name) -}}
{{- $_ := set $asked $name (dict "shards" .shards "replicas" .replicas) -}}
{{- end -}}
{{- end -}}
{{- toYaml $asked -}}
{{- end -}}

{{/* What one coarse worker, and one encoder replica, take of a Ray node. */}}
{{- define "nestvec.topology" -}}
{{- $values := .Values -}}
{{- $coarse := dict "num_cpus" 1 "snapshot_every_s" $values.coarse.snapshots.everySeconds -}}
{{- with include "nestvec.snapshots" . -}}{{- $_ := set $coarse "snapshots" . -}}{{- end -}}
{{- $encoder := deepCopy $values.encoder.model -}}
{{- $_ := set $encoder "in" $values.encoder.in -}}
{{- if eq $values.encoder.in "cluster" -}}
{{- $_ := set $encoder "num_cpus" 0 -}}
{{- $_ := set $encoder "num_gpus" 1 -}}
{{- $_ := set $encoder "replicas" (dict "min" $values.encoder.replicas "max" $values.encoder.replicas) -}}
{{- end -}}
{{- $topology := dict
  "name" $values.clusterName
  "store" (include "nestvec.store" (dict "root" . "role" "ray") | fromYaml)
  "collections" (include "nestvec.collections" . | fromYaml)
  "coarse" (mergeOverwrite $coarse (deepCopy $values.coarse.config))
  "encoder" (mergeOverwrite $encoder (deepCopy $values.encoder.config))
  "query" (dict "count" 0 "port" 0)
  "ingest" (dict "count" 0 "port" 0)
  "timeouts" (dict "drain_s" $values.drainSeconds "heartbeat_s" $values.heartbeatSeconds "ready_s" $values.ray.readySeconds)
  "log" (dict "format" "json")
  "ray" (dict "address" (printf "%s-head-svc:6379" (include "nestvec.fullname" .)))
  "insecure" $values.security.insecure
-}}
{{- with include "nestvec.security" (dict "root" . "role" "ray") | fromYaml -}}{{- $_ := set $topology "security" . -}}{{- end -}}
{{- with include "nestvec.telemetry" . | fromYaml -}}{{- $_ := set $topology "telemetry" . -}}{{- end -}}
{{- toYaml $topology -}}
{{- end -}}
