{{/* Names, labels, images. */}}

{{- define "nestvec.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Short: names of shards and roles come behind it. */}}
{{- define "nestvec.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "nestvec.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "nestvec.selector" -}}
app.kubernetes.io/name: {{ include "nestvec.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .role }}
{{- end -}}

{{- define "nestvec.labels" -}}
{{ include "nestvec.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: nestvec
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* gpus: how many a process takes. */}}
{{- define "nestvec.image" -}}
{{- $image := .root.Values.image -}}
{{- $repository := ternary $image.gpuRepository $image.repository (gt (int .gpus) 0) -}}
{{- printf "%s:%s" $repository (default .root.Chart.AppVersion $image.tag) -}}
{{- end -}}

{{/* The values of a role: role cross is crossEncoder. */}}
{{- define "nestvec.valuesOf" -}}
{{- if eq .role "cross" -}}{{ toYaml .root.Values.crossEncoder }}
{{- else -}}{{ toYaml (index .root.Values .role) }}{{- end -}}
{{- end -}}

{{/* Roles that run as Deployments, separated by blanks. */}}
{{- define "nestvec.deployed" -}}
query ingest
{{- if .Values.rerank.enabled }} rerank{{ end -}}
{{- if .Values.crossEncoder.enabled }} cross{{ end -}}
{{- if and (eq .Values.encoder.in "cluster") (eq .Values.runtime "pods") }} encoder{{ end -}}
{{- end -}}

{{- define "nestvec.passwordSecret" -}}
{{- default (printf "%s-redis" (include "nestvec.fullname" .)) .Values.redis.passwordSecret -}}
{{- end -}}

{{/* Keys of the store's Secret: `password` is of replicas, of Ray, and of everybody without roles. */}}
{{- define "nestvec.passwords" -}}
password
{{- if .Values.redis.userPerRole }} ingest query coarse rerank member operator{{ end -}}
{{- end -}}

{{/* Under which user of the store a role runs. Pods of Ray are coarse workers and encoders. */}}
{{- define "nestvec.storeRole" -}}
{{- $roles := dict "encoder" "member" "cross" "member" "ray" "coarse" "check" "ingest" -}}
{{- dig .role .role $roles -}}
{{- end -}}

{{- define "nestvec.tlsSecret" -}}
{{- if not .Values.security.insecure -}}
{{- default (printf "%s-tls" (include "nestvec.fullname" .)) .Values.security.tls.secret -}}
{{- end -}}
{{- end -}}

{{/* What certificates of this release's processes bear: they call each other by address. */}}
{{- define "nestvec.serverName" -}}
{{- printf "%s.%s.nestvec" (include "nestvec.fullname" .) .Release.Namespace -}}
{{- end -}}

{{- define "nestvec.clientName" -}}client.{{ include "nestvec.serverName" . }}{{- end -}}

{{/* A list, as YAML. */}}
{{- define "nestvec.dnsNames" -}}
{{- $name := include "nestvec.fullname" . -}}
- {{ include "nestvec.serverName" . }}
{{- if .Values.regions.here }}
- {{ .Values.regions.here }}.regions.nestvec
{{- end }}
{{- range list "query" "query-headless" "ingest" }}
- {{ $name }}-{{ . }}
- {{ $name }}-{{ . }}.{{ $.Release.Namespace }}
- {{ $name }}-{{ . }}.{{ $.Release.Namespace }}.svc
{{- end }}
- localhost
{{- end -}}

{{- define "nestvec.priority" -}}
{{- $values := .root.Values.priorityClass -}}
{{- $kind := ternary "writing" "serving" (eq .role "ingest") -}}
{{- if $values.create -}}{{ include "nestvec.fullname" .root }}-{{ $kind }}
{{- else -}}{{ index $values (printf "%sName" $kind) }}{{- end -}}
{{- end -}}
