#!/bin/sh
# Writes the certificates of muster's verbs into a folder: an authority, a server certificate for
# muster's Service and a client certificate for kube-scheduler.
#   deploy/certificates.sh FOLDER [NAMESPACE] [DAYS]
# A second run keeps the authority and renews both certificates.
set -eu
folder=${1:?folder to write to, e.g. certificates}
namespace=${2:-muster-system}
days=${3:-365}
umask 077
mkdir -p "$folder"
cd "$folder"

new_key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null; }

if [ ! -f ca.key ]; then
    new_key ca.key
    openssl req -x509 -new -key ca.key -sha256 -days 3650 -subj "/CN=muster authority" -out ca.crt \
        -addext "keyUsage=critical,keyCertSign,cRLSign"
fi

issue() { # NAME USAGE HOSTS
    new_key "$1.key"
    openssl req -new -key "$1.key" -subj "/CN=$1" -out "$1.csr"
    {
        echo "basicConstraints=critical,CA:FALSE"
        echo "keyUsage=critical,digitalSignature"
        echo "extendedKeyUsage=$2"
        echo "subjectKeyIdentifier=hash"
        echo "authorityKeyIdentifier=keyid"
        [ -z "$3" ] || echo "subjectAltName=$3"
    } > "$1.ext"
    openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -sha256 \
        -days "$days" -extfile "$1.ext" -out "$1.crt" 2>/dev/null
    rm "$1.csr" "$1.ext"
}

service=muster.$namespace.svc
issue muster serverAuth "DNS:$service,DNS:$service.cluster.local,DNS:muster.$namespace,DNS:muster"
issue muster-scheduler clientAuth ""

cat <<TEXT
Written to $folder. Keep ca.key away from the cluster. Create the Secrets with
  for name in muster muster-scheduler; do
    kubectl -n $namespace create secret generic \$name-tls --dry-run=client -o yaml \\
      --from-file=tls.crt=$folder/\$name.crt --from-file=tls.key=$folder/\$name.key \\
      --from-file=ca.crt=$folder/ca.crt | kubectl apply -f -
  done
TEXT
