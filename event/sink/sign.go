package sink

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// secretPrefix marks a signing key that is written in base64.
const secretPrefix = "whsec_"

// leastSecret is how many bytes a signing key has at least.
const leastSecret = 16

// parseSecret reads a signing key: as Standard Webhooks writes them, or any text.
func parseSecret(text string) ([]byte, error) {
	key := []byte(text)
	if b64, ok := strings.CutPrefix(text, secretPrefix); ok {
		var err error
		if key, err = base64.StdEncoding.DecodeString(b64); err != nil {
			return nil, bad("behind "+secretPrefix+" there is no base64", "write the key as it was given, or any other text without that prefix")
		}
	}
	if len(key) < leastSecret {
		return nil, bad("the key is too short to be one", "make one: head -c 32 /dev/urandom | base64")
	}
	return key, nil
}

// sign signs a request as Standard Webhooks does: HMAC-SHA256 over its ID, when
// it is sent, and its body.
func sign(h http.Header, key []byte, id string, at time.Time, body []byte) {
	stamp := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(id + "." + stamp + "."))
	mac.Write(body)
	h.Set("webhook-timestamp", stamp)
	h.Set("webhook-signature", "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
}
