{{/* A file of the Kustomize base or overlays with this release's namespace and resource. files/ holds
links to them, so that the two ways to install cannot differ. Call with (list $ "name"). */}}
{{- define "muster.shipped" -}}
{{- $root := index . 0 -}}
{{- $text := $root.Files.Get (printf "files/%s" (index . 1)) -}}
{{- if not $text }}{{ fail (printf "files/%s is missing: install from a checkout or a packaged chart" (index . 1)) }}{{ end -}}
{{- $text | replace "muster-system" $root.Release.Namespace | replace "nvidia.com/gpu" $root.Values.resource -}}
{{- end -}}

{{- define "muster.toml" -}}
{{- mergeOverwrite (include "muster.shipped" (list . "muster.toml") | fromToml) .Values.settings | toToml -}}
{{- end -}}

{{/* The network policy on an own control plane, with the addresses of its hosts. */}}
{{- define "muster.network" -}}
{{- $blocks := list -}}
{{- if not .Values.controlPlane -}}
{{- fail "controlPlane: give the addresses of your control plane's hosts, as [10.0.0.1/32, ...], or set networkPolicy=false (values.yaml)" -}}
{{- end -}}
{{- range .Values.controlPlane -}}
{{- $blocks = append $blocks (dict "ipBlock" (dict "cidr" .)) -}}
{{- end -}}
{{- $policy := include "muster.shipped" (list . "control-plane.yaml") | fromYaml -}}
{{- $_ := set (first $policy.spec.ingress) "from" $blocks -}}
{{- mergeOverwrite (include "muster.shipped" (list . "network.yaml") | fromYaml) $policy | toYaml -}}
{{- end -}}

{{/* The policy of tenants, in the namespaces that the values name. */}}
{{- define "muster.tenants" -}}
{{- $selector := .Values.tenants -}}
{{- range $text := splitList "\n---\n" (include "muster.shipped" (list . "tenants.yaml")) -}}
{{- $item := fromYaml $text -}}
{{- if eq $item.kind "ValidatingAdmissionPolicyBinding" -}}
{{- $_ := set $item.spec.matchResources "namespaceSelector" $selector -}}
{{- end }}
---
{{ toYaml $item }}
{{- end -}}
{{- end -}}

{{/* The policy of gangs; beside a second scheduler with what the overlay adds to it. */}}
{{- define "muster.admission" -}}
{{- $managed := .Values.managed.enabled -}}
{{- $additions := include "muster.shipped" (list . "managed-gate.yaml") | fromYamlArray -}}
{{- range $text := splitList "\n---\n" (include "muster.shipped" (list . "admission.yaml")) -}}
{{- $item := fromYaml $text -}}
{{- if and $managed (eq $item.kind "MutatingAdmissionPolicy") -}}
{{- range $additions -}}
{{- $_ := set $item.spec "mutations" (append $item.spec.mutations .value) -}}
{{- end -}}
{{- end }}
---
{{ toYaml $item }}
{{- end -}}
{{- end -}}
