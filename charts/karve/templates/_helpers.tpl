{{/* The name of every object: `karve-operator`, with the release's name in front unless that says `karve` already. */}}
{{- define "karve.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $release := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- printf "%s-operator" ($release | trunc 43 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{/* The name of what a cluster has once: a namespace is part of it, unless the release is where it is by default. */}}
{{- define "karve.clusterName" -}}
{{- $name := include "karve.fullname" . -}}
{{- if eq .Release.Namespace "karve-system" -}}{{ $name }}{{- else -}}{{ .Release.Namespace }}-{{ $name }}{{- end -}}
{{- end -}}

{{- define "karve.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "karve.labels" -}}
{{ include "karve.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* `labels` and `annotations` of an object: what all have, and the (possibly nil) `labels` and `annotations` of its own. */}}
{{- define "karve.metadata" -}}
labels:
  {{- include "karve.labels" .root | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (default (dict) .annotations) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "karve.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "karve.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* An image as a reference: (dict "root" $ "image" IMAGE). An empty registry is that of the operator. */}}
{{- define "karve.image" -}}
{{- $repository := printf "%s/%s" (default .root.Values.image.registry .image.registry) .image.repository -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (default .root.Chart.AppVersion .image.tag) -}}
{{- end -}}
{{- end -}}

{{/* What the operator may do in a namespace whose ImageBuilds it builds. Nothing here names Secrets, and nothing may. */}}
{{- define "karve.rules" -}}
- apiGroups: [karve.dev]
  resources: [imagebuilds]
  verbs: [get, list, watch]
- apiGroups: [karve.dev]
  resources: [imagebuilds/status]
  verbs: [get, patch, update]
# Being the owner of a Pod, where owners are checked (OpenShift).
- apiGroups: [karve.dev]
  resources: [imagebuilds/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, create, delete]
# Contexts and build arguments are read; those of inline contexts are written.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch, create, delete]
# Why a Pod does not start.
- apiGroups: [""]
  resources: [events]
  verbs: [get, list]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
