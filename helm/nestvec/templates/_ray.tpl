{{/* Ports of its own, below those that the system gives to the workers' gRPC servers. */}}
{{- define "nestvec.rayPorts" -}}
node-manager-port: "6380"
object-manager-port: "6381"
min-worker-port: "10002"
max-worker-port: "10999"
object-store-memory: {{ .Values.ray.objectStoreBytes | int64 | quote }}
{{- end -}}

{{/* The pod of a Ray node: the head, or one for each worker and encoder replica. */}}
{{- define "nestvec.rayPod" -}}
metadata:
  labels:
{{ include "nestvec.selector" . | indent 4 }}
    nestvec/group: {{ .container }}
{{- with .root.Values.podLabels }}
{{ toYaml . | indent 4 }}
{{- end }}
  annotations:
    nestvec/image: {{ include "nestvec.image" (dict "root" .root "gpus" .own.gpus) | quote }}
{{- with .root.Values.podAnnotations }}
{{ toYaml . | indent 4 }}
{{- end }}
spec:
{{ include "nestvec.podCommon" . | indent 2 }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
{{ include "nestvec.selector" . | indent 10 }}
          nestvec/group: {{ .container }}
  terminationGracePeriodSeconds: {{ add .root.Values.drainSeconds 40 }}
  containers:
    - name: {{ .container }}
      image: {{ include "nestvec.image" (dict "root" .root "gpus" .own.gpus) }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
{{- if .head }}
      command: [sh, /etc/nestvec-ray/head.sh]
{{- else }}
      command: [sh, -c, 'ulimit -n 65536 || true; eval "exec $KUBERAY_GEN_RAY_START_CMD"']
{{- end }}
      env:
{{ include "nestvec.env" . | indent 8 }}
        # Whoever reaches Ray's ports may run any code: only with the token.
        - {name: RAY_AUTH_MODE, value: token}
        - name: RAY_AUTH_TOKEN
          valueFrom: {secretKeyRef: {name: {{ .token }}, key: auth_token}}
        # Not batch work: these processes answer people.
        - {name: RAY_worker_niceness, value: "0"}
        - {name: RECONCILE_S, value: {{ .root.Values.ray.reconcileSeconds | quote }}}
      ports:
{{- if .head }}
        - {name: gcs-server, containerPort: 6379, protocol: TCP}
{{- else }}
        - {name: node-manager, containerPort: 6380, protocol: TCP}
{{- end }}
      resources:
{{ include "nestvec.resources" . | indent 8 }}
      securityContext:
{{ include "nestvec.containerSecurity" . | indent 8 }}
{{- $port := ternary "gcs-server" "node-manager" .head }}
      startupProbe: {tcpSocket: {port: {{ $port }}}, periodSeconds: 5, failureThreshold: 60}
      readinessProbe: {tcpSocket: {port: {{ $port }}}, periodSeconds: 5, failureThreshold: 6}
      livenessProbe: {tcpSocket: {port: {{ $port }}}, periodSeconds: 10, failureThreshold: 12}
{{- if not .head }}
      lifecycle:
        preStop:
          exec: {command: [python, -m, nestvec_cluster.leaving, {{ add .root.Values.drainSeconds 20 | quote }}]}
{{- end }}
      volumeMounts:
        - {name: settings, mountPath: /etc/nestvec, readOnly: true}
        - {name: tmp, mountPath: /tmp}
        - {name: shm, mountPath: /dev/shm}
{{- if .head }}
        - {name: head, mountPath: /etc/nestvec-ray, readOnly: true}
{{- else if eq .root.Values.coarse.snapshots.kind "shared" }}
        - {name: snapshots, mountPath: /var/lib/nestvec}
{{- end }}
{{- if .root.Values.security.filesSecret }}
        - {name: auth, mountPath: /etc/nestvec-auth, readOnly: true}
{{- end }}
{{- with .own.extraVolumeMounts }}
{{ toYaml . | indent 8 }}
{{- end }}
  volumes:
{{ include "nestvec.volumes" (dict "root" .root "role" "ray" "settings" (printf "%s-ray" (include "nestvec.fullname" .root))) | indent 4 }}
    - name: shm
      emptyDir: {medium: Memory, sizeLimit: 256Mi}
{{- if .head }}
    - name: head
      configMap: {name: {{ include "nestvec.fullname" .root }}-ray-head, defaultMode: 0440}
{{- else if eq .root.Values.coarse.snapshots.kind "shared" }}
    - name: snapshots
      persistentVolumeClaim: {claimName: {{ include "nestvec.fullname" .root }}-snapshots}
{{- end }}
{{- with .own.extraVolumes }}
{{ toYaml . | indent 4 }}
{{- end }}
{{- end -}}
